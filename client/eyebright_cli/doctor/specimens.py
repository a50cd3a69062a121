"""What the doctor embeds: bundled pictures, and captions.

Owns them and in what they differ. The pictures were made by ``tests/conformance/make_pictures.py``.
"""

from importlib import resources

SHORT = "a cat"

CAPTIONS = (
    SHORT,
    "two dogs asleep on a red sofa",
    "an old man mends a fishing net beside the harbour while gulls wait on the wall",
    "snow",
    "a bowl of soup with noodles, seen from above",
    "東京の夜",
)
"""Of all lengths, and of more than one script; none is cut by a text length of 20 tokens or more."""

VARIANTS = ("two dogs asleep on a red sofa", "Two DOGS asleep on a RED sofa", "  two dogs\tasleep on\n a  red sofa ")
"""One caption in three spellings."""

PICTURES = ("landscape.png", "panorama.jpg", "gray.png", "upright.jpg", "on-white.png", "lying.jpg")
"""Pictures that are not alike, of both containers that all embedders know."""

NO_PICTURE = b"these bytes are no picture"


def picture(name: str) -> bytes:
    """A bundled picture, encoded."""
    return (resources.files("eyebright_cli") / "doctor" / "pictures" / name).read_bytes()


def long_caption(tokens: int, ending: str) -> str:
    """A caption of more than so many tokens, whatever the tokenizer; the given ending stands long after them."""
    return "many words follow here, " * tokens + ending
