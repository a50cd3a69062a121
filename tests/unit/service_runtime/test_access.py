"""What a grant reaches."""

import pytest

from service_runtime.access import ANYONE, Grant, Scope, current_grant


@pytest.mark.parametrize(
    ("collections", "reached", "beyond"),
    [
        (("photos",), ["photos"], ["photo", "photos-2", "Photos", "", "*"]),
        (("a", "drafts-*"), ["a", "drafts-", "drafts-1"], ["drafts", "b", "xdrafts-1", "*"]),
        (("*",), ["anything", "", "*"], []),
    ],
)
def test_reach(collections: tuple[str, ...], reached: list[str], beyond: list[str]) -> None:
    grant = Grant("name", Scope.READ, collections)
    assert all(map(grant.reaches, reached))
    assert not any(map(grant.reaches, beyond))
    assert grant.reaches_all == (not beyond)


def test_outside_a_call_and_without_tokens_all_is_allowed() -> None:
    assert current_grant() is ANYONE
    assert ANYONE.scope is max(Scope)
    assert ANYONE.reaches_all
