import base64

import pytest

from index_service.page_token import _digest, read_page_token, write_page_token
from service_runtime.errors import InvalidArgument


@pytest.mark.parametrize("last_id", ["a", "é🐞", "nul\x00", "x" * 512])
def test_a_token_leads_back_to_its_id(last_id: str) -> None:
    assert read_page_token("pets", 7, write_page_token("pets", 7, last_id)) == last_id


def test_no_token_is_the_first_page_and_no_id_the_last() -> None:
    assert read_page_token("pets", 7, "") == ""
    assert write_page_token("pets", 7, "") == ""


@pytest.mark.parametrize(
    "token",
    [
        "nonsense",
        "é",
        "a",
        "====",
        base64.urlsafe_b64encode(b"12345678").decode(),
        base64.urlsafe_b64encode(b"12345678img/1").decode(),
        base64.urlsafe_b64encode(_digest("pets", 7, b"\xff") + b"\xff").decode(),
        write_page_token("birds", 7, "a"),
        write_page_token("pets", 8, "a"),
        write_page_token("pets", 7, "a") + "\n",
        "x" * 10_000,
    ],
)
def test_anything_else_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match="expected a next_page_token of collection 'pets'") as raised:
        read_page_token("pets", 7, token)
    assert raised.value.field == "page_token"
    assert len(raised.value.message) < 200
