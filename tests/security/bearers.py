"""Tokens for tests, and the lines that a token file has of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path


def bearer(name: str) -> str:
    """The token that goes by this name in a file of ``write_tokens``."""
    return f"token-of-{name}-" + "x" * 20


def write_tokens(path: Path, grants: Mapping[str, str]) -> Path:
    """A token file of ``name -> "SCOPE COLLECTIONS"``, put in place whole."""
    lines = (
        f"{name} {grant} sha256:{hashlib.sha256(bearer(name).encode()).hexdigest()}" for name, grant in grants.items()
    )
    path.with_suffix(".new").write_text("# NAME SCOPE COLLECTIONS HASH\n" + "\n".join(lines) + "\n")
    return path.with_suffix(".new").replace(path)


def authorization(name: str) -> tuple[tuple[str, str], ...]:
    """The metadata of a call of theirs."""
    return (("authorization", f"Bearer {bearer(name)}"),)
