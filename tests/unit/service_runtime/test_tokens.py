"""The token file: who a token is, what it may do, and what is wrong with a file, told without a secret."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service_runtime.access import Grant, Scope
from service_runtime.errors import Unauthenticated
from service_runtime.tokens import MAX_FILE_BYTES, Tokens, read_token_file
from tests.security.bearers import bearer, write_tokens

HASH = "sha256:" + hashlib.sha256(b"secret").hexdigest()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_tokens(tmp_path / "tokens", {"one": "read photos,drafts-*", "two": "admin *"})


def test_a_token_is_known_by_its_hash(file: Path) -> None:
    tokens = Tokens(file)
    one = Grant("one", Scope.READ, ("photos", "drafts-*"))
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert tokens.grant(f"{scheme} {bearer('one')}") == one
    assert tokens.grant(f"Bearer {bearer('two')}") == Grant("two", Scope.ADMIN, ("*",))
    assert bearer("one") not in file.read_text()


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer x", bearer("one"), f"Basic {bearer('one')}"])
def test_anything_else_is_nobody(file: Path, given: str | None) -> None:
    with pytest.raises(Unauthenticated) as caught:
        Tokens(file).grant(given)
    assert bearer("one") not in caught.value.message


def test_neither_a_hash_nor_a_token_with_white_space_is_a_token(file: Path) -> None:
    digest = file.read_text().split()[-1]
    tokens = Tokens(file)
    for other in (digest, digest.removeprefix("sha256:"), f"{bearer('one')} ", f" {bearer('one')}", bearer("one")[:-1]):
        with pytest.raises(Unauthenticated):
            tokens.grant(f"Bearer {other}")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a-plain-token-as-it-was-before", "expected NAME SCOPE COLLECTIONS HASH, .*, not 1 words"),
        (f"name read * {HASH} more", "expected NAME SCOPE COLLECTIONS HASH, .*, not 5 words"),
        (f"na/me read * {HASH}", "expected a name"),
        (f"{'n' * 65} read * {HASH}", "expected a name"),
        (f"name owner * {HASH}", "expected a scope of read, write, admin"),
        (f"name READ * {HASH}", "expected a scope"),
        (f"name read a,,b {HASH}", "expected collections"),
        (f"name read *a {HASH}", "expected collections"),
        (f"name read a*b {HASH}", "expected collections"),
        ("name read * a-plain-token", "expected sha256: and 64"),
        (f"name read * {HASH.upper()}", "expected sha256: and 64"),
        (f"name read * {HASH[:-1]}", "expected sha256: and 64"),
        (f"one read * {HASH}", "the name one stands in the file twice"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_by_its_number_alone(file: Path, line: str, says: str) -> None:
    with file.open("a") as appended:
        appended.write(line)
    with pytest.raises(OSError, match=rf"token_file .*tokens, line 4: {says}") as caught:
        read_token_file(file)
    assert HASH[7:] not in str(caught.value)
    assert "plain" not in str(caught.value)


def test_one_token_can_not_have_two_names(file: Path) -> None:
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1].replace("one", "three")]))
    with pytest.raises(OSError, match="line 4: three has the token of one"):
        read_token_file(file)


@pytest.mark.parametrize("content", [b"", b"\n# only a comment\n", b"\xff\xfe", b"#" * (MAX_FILE_BYTES + 1)])
def test_a_file_that_holds_no_tokens_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokens").write_bytes(content)
    with pytest.raises(OSError, match=r"token_file .*tokens: expected"):
        read_token_file(tmp_path / "tokens")


WORDS = st.sampled_from(["one", "read", "admin", "*", "a,b-*", HASH, "#", "\n", "\x85", "\u2028", "\0", "sha256:", ","])


@given(
    st.one_of(st.binary(max_size=400), st.lists(st.one_of(WORDS, st.text(max_size=5))).map(" ".join).map(str.encode))
)
@example(f"one read * {HASH}".encode())
def test_whatever_a_file_holds_is_tokens_or_one_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-tokens"
    path.write_bytes(content)
    try:
        table = read_token_file(path)
    except OSError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert HASH[7:] not in str(error)  # noqa: PT017
    else:
        assert all(
            key == digest[:8] and len(digest) == 32 and grant.collections for key, (digest, grant) in table.items()
        )
