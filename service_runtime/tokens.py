"""Bearer tokens: the file that says whose they are and what they may do, and the check of what a call carries.

Owns the file's format, one token a line, white space between the parts, ``#`` before a comment:

    # NAME     SCOPE  COLLECTIONS      HASH
    crawler    write  photos,drafts-*  sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    dashboard  read   *                sha256:6ca13d52ca70c883e0f0bb101e425a89e8624de51db2d2392593af6a84118090

The file holds no secret: a hash can't be used as a token. It is plain SHA-256 because ``eyebright token new`` draws
tokens of 256 random bits, which nobody finds by trying; a slow hash, as passwords need, would cost every call
milliseconds and gain nothing. A token made up by a person has no place here.
"""

import hashlib
import hmac
import re
from pathlib import Path

from service_runtime.access import Grant, Scope
from service_runtime.errors import Unauthenticated
from service_runtime.reloading import Reloading, ReloadMetrics

MAX_FILE_BYTES = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_COLLECTION = re.compile(r"\*|[A-Za-z0-9][A-Za-z0-9._-]{0,63}\*?")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")
_SCOPES = {scope.name.lower(): scope for scope in Scope}
_INDEX_BYTES = 8

TokenTable = dict[bytes, tuple[bytes, Grant]]
"""(hash, grant) by the first bytes of the hash."""


class Tokens:
    """The tokens that a service takes, as the file says by now."""

    def __init__(self, path: Path, metrics: ReloadMetrics | None = None) -> None:
        """Raises OSError, with the line at fault, when the file can't be used."""
        self._table = Reloading("tokens", [path], lambda: read_token_file(path), metrics)

    def grant(self, authorization: str | None) -> Grant:
        """What the bearer of this ``authorization`` metadata may do. Raises Unauthenticated."""
        if authorization is None:
            raise Unauthenticated("the call carries no authorization metadata; expected 'authorization: Bearer TOKEN'")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            digest = hashlib.sha256(token.encode()).digest()
            # The look-up sees hashes alone, so how long it takes says nothing about a token.
            expected, grant = self._table.get().get(digest[:_INDEX_BYTES], (b"", None))
            if hmac.compare_digest(digest, expected) and grant is not None:
                return grant
        raise Unauthenticated("the token of this call is none that this server takes")


def read_token_file(path: Path) -> TokenTable:
    """The tokens of a file. Raises OSError, which names the line and never says what a hash or a token is."""
    content = path.read_bytes()
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"token_file {path}: expected at most {MAX_FILE_BYTES:,} bytes, not {len(content):,}")
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError as error:
        raise OSError(f"token_file {path}: expected UTF-8, not what stands at byte {error.start}") from None
    table: TokenTable = {}
    names: set[str] = set()
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            digest, grant = _read_line(words)
            if grant.name in names:
                raise ValueError(f"the name {grant.name} stands in the file twice")
            if digest[:_INDEX_BYTES] in table:
                raise ValueError(f"{grant.name} has the token of {table[digest[:_INDEX_BYTES]][1].name}")
        except ValueError as error:
            raise OSError(f"token_file {path}, line {number}: {error}") from None
        names.add(grant.name)
        table[digest[:_INDEX_BYTES]] = digest, grant
    if not table:
        raise OSError(f"token_file {path}: expected at least one token, not none; `eyebright token new` makes one")
    return table


def _read_line(words: list[str]) -> tuple[bytes, Grant]:
    if len(words) != 4:
        raise ValueError(
            f"expected NAME SCOPE COLLECTIONS HASH, as `eyebright token new` prints them, not {len(words)} words"
        )
    name, scope, collections, digest = words
    if not _NAME.fullmatch(name):
        raise ValueError('expected a name of 1 to 64 letters, digits, "." "_" and "-"')
    if scope not in _SCOPES:
        raise ValueError(f"expected a scope of {', '.join(_SCOPES)}")
    places = tuple(collections.split(","))
    if not all(map(_COLLECTION.fullmatch, places)):
        raise ValueError('expected collections as photos,drafts-* or "*"')
    found = _HASH.fullmatch(digest)
    if found is None:
        raise ValueError("expected sha256: and 64 lower-case hexadecimal digits")
    return bytes.fromhex(found[1]), Grant(name, _SCOPES[scope], places)
