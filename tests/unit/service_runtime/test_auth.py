"""The token of a file: what is wrong with it is said, as an OSError that names the file."""

from pathlib import Path

import pytest

from service_runtime.auth import BearerToken
from service_runtime.errors import Unauthenticated


def test_the_token_of_a_file_is_checked(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(" s3cret\r\n")
    token = BearerToken.from_file(tmp_path / "token")
    token.check("/a.B/C", {"authorization": "Bearer s3cret"})
    with pytest.raises(Unauthenticated):
        token.check("/a.B/C", {"authorization": "Bearer s3cret "})
    token.check("/grpc.health.v1.Health/Check", {})


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", b"two\nlines", "schlüssel".encode(), b"\xff\xfe"])
def test_a_file_without_a_token_that_metadata_can_carry_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(OSError, match=r"token_file .*token: expected printable ASCII"):
        BearerToken.from_file(tmp_path / "token")
