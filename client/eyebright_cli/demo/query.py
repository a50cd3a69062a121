"""One query of the demo.

Apart from what makes them, which needs Pillow: every command of ``eyebright`` loads this module, and Pillow comes with
the embedder's libraries alone.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DemoQuery:
    """A query: words, or an encoded picture with ``words`` as its title. ``right``: keys of pictures that answer it."""

    words: str
    picture: bytes | None
    right: frozenset[str]
