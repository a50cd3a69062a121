"""Which collections metrics call by their names.

Owns the bound: callers may make as many collections as they like, and each name is a time series of its own.
"""

from threading import Lock

MOST_NAMED = 100
"""Collections that bear their names in metrics at most: those that were there first."""

OTHERS = "_others"
"""What all further ones are called together. No collection can have this name."""


class CollectionLabels:
    """The collections that are named. Any thread may call it."""

    def __init__(self) -> None:
        self._changing = Lock()
        self._named: set[str] = set()

    def add(self, collection: str) -> None:
        """Name a collection if there is room."""
        with self._changing:
            if len(self._named) < MOST_NAMED:
                self._named.add(collection)

    def remove(self, collection: str) -> bool:
        """Make room; whether the collection was named."""
        with self._changing:
            named = collection in self._named
            self._named.discard(collection)
            return named

    def label(self, collection: str) -> str:
        """What metrics call it."""
        return collection if collection in self._named else OTHERS
