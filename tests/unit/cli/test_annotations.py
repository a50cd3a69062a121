import pytest
from eyebright_cli.annotations import parse_caption, parse_metadata


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"a red heart", "a red heart"),
        (b"  a red heart\n", "a red heart"),
        (b"\xef\xbb\xbfa red heart", "a red heart"),
        ("ein Bär".encode(), "ein Bär"),
        (b" \n\t", None),
        (b"", None),
    ],
)
def test_caption(content: bytes, caption: str | None) -> None:
    assert parse_caption(content) == caption


def test_caption_that_is_not_utf8() -> None:
    with pytest.raises(ValueError, match=r"its \.txt is not UTF-8"):
        parse_caption(b"B\xe4r")


def test_metadata_keeps_large_integers() -> None:
    assert parse_metadata(b'{"number": 9007199254740993, "tags": ["a"]}') == {"number": 9007199254740993, "tags": ["a"]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "can't be read"),
        (b"\xff", "can't be read"),
        (b"[1, 2]", "holds a list, expected an object"),
        (b"null", "holds a NoneType, expected an object"),
        (b'{"a":' * 100_000, "nested too deep"),
    ],
)
def test_metadata_that_is_no_object(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_metadata(content)
