"""What a call needs, and what its caller may do.

Owns scopes, the reach of a grant, and the grant of the call that is being answered. Knows no method: a service brings a
table of what each of its methods needs.
"""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum
from typing import Any


class Scope(IntEnum):
    """Each includes those before it."""

    READ = 1
    WRITE = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """What a caller may do, and where."""

    name: str
    """Whose it is, for logs and refusals; empty where no tokens are asked for."""
    scope: Scope
    collections: tuple[str, ...]
    """Names; one that ends with ``*`` stands for every name that begins so."""

    def reaches(self, collection: str) -> bool:
        """Whether the caller may know of this collection, whether or not there is one."""
        return any(
            collection.startswith(place[:-1]) if place.endswith("*") else collection == place
            for place in self.collections
        )

    @property
    def reaches_all(self) -> bool:
        """Whether it holds for every collection there could be."""
        return "*" in self.collections


ANYONE = Grant("", Scope.ADMIN, ("*",))
"""The grant of every caller where no tokens are asked for."""


@dataclass(frozen=True, slots=True)
class Access:
    """What the calls of one method need. The defaults suit a method that concerns no collection."""

    scope: Scope
    collection: Callable[[Any], str] | None = None
    """The name of the collection that a request concerns."""
    every_collection: bool = False
    """Whether a caller must reach all collections, whichever the request names."""
    administrative: Callable[[Any], bool] = lambda _: False
    """Whether a request is an administrator's doing, to be logged, though its scope is a lesser one."""


_current: ContextVar[Grant] = ContextVar("eyebright_grant", default=ANYONE)

current_grant: Callable[[], Grant] = _current.get
"""The grant of the call that is being answered."""

set_current_grant = _current.set
"""For what runs around a call."""
