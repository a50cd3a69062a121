"""Captions for the art, and which emoji each caption is true of.

Owns templates, tag sampling and the truth table caption -> emoji. Knows nothing of pixels or torch.
"""

from dataclasses import dataclass
from random import Random

import numpy as np

from .art import Emoji

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49),
    "orange": (240, 140, 40),
    "yellow": (250, 215, 70),
    "green": (70, 170, 80),
    "blue": (60, 110, 220),
    "purple": (140, 80, 190),
    "pink": (245, 150, 190),
    "brown": (130, 85, 50),
    "gray": (150, 150, 150),
    "black": (15, 15, 15),
    "turquoise": (60, 190, 190),
}
"""Backgrounds with a name, sRGB."""

_TEMPLATES = (
    "{}",
    "{}",
    "{}",
    "{}",
    "a picture of {}",
    "an emoji of {}",
    "a drawing of {}",
    "{} emoji",
    "an icon of {}",
    "this is {}",
    "an image that shows {}",
    "a small picture of {}",
    "{}, clip art",
    "a cartoon of {}",
)


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption, the indices of the emoji it is true of, and the background it names, if any."""

    text: str
    truths: tuple[int, ...]
    background: str | None = None
    scene: bool = False


def article(label: str) -> str:
    """The label with "a" or "an" before it where that reads well."""
    if label.split()[0].endswith("s") or any(c.isdigit() for c in label) or ":" in label:
        return label
    return f"{'an' if label[0] in 'aeiou' else 'a'} {label}"


class CaptionWriter:
    """Writes a caption for an emoji: tags only (a third), its name with a tag or a background (a fifth), its name."""

    def __init__(self, emoji: list[Emoji]) -> None:
        self._emoji = emoji
        self._holders: dict[str, frozenset[int]] = {}
        for index, one in enumerate(emoji):
            for tag in one.tags:
                self._holders[tag] = self._holders.get(tag, frozenset()) | {index}

    def write(self, index: int, background: str | None, random: Random) -> Caption:
        """A caption for the picture of emoji ``index`` on that background (a key of COLOURS, or None: not nameable)."""
        one = self._emoji[index]
        kind = random.random()
        if kind < 0.35 and one.tags:
            count = min(len(one.tags), random.choice((1, 2, 3, 4, 6, 8)))
            tags = random.sample(one.tags, count)
            truths = frozenset.intersection(*(self._holders[tag] for tag in tags))
            return Caption(random.choice((", ", " ", ", ")).join(tags), tuple(sorted(truths)))
        name = random.choice((one.label, one.label, article(one.label)))
        text = random.choice(_TEMPLATES).format(name)
        if kind < 0.45 and one.tags:
            return Caption(f"{text}, {random.choice(one.tags)}", (index,))
        if kind < 0.55 and background is not None:
            return Caption(f"{text} on a {background} background", (index,), background)
        return Caption(text, (index,))

    def write_scene(self, first: int, second: int, random: Random) -> Caption:
        """A caption for a picture of two emoji side by side, left one first."""
        names = [article(self._emoji[index].label) for index in (first, second)]
        return Caption(
            random.choice(("{} and {}", "{} next to {}", "{}, {}")).format(*names), (first, second), scene=True
        )

    def corpus(self, random: Random, rounds: int = 6) -> list[str]:
        """Captions enough to train a tokenizer on."""
        colours = [*COLOURS, None]
        return [
            self.write(index, random.choice(colours), random).text
            for _ in range(rounds)
            for index in range(len(self._emoji))
        ] + [one.label for one in self._emoji]


def unshared_tags(one: Emoji) -> str:
    """The tags that share no word with the label, joined by commas: a query by meaning alone. May be empty."""
    words = set(one.label.replace("-", " ").replace(":", " ").split())
    return ", ".join(tag for tag in one.tags if not words & set(tag.replace("-", " ").split()))


def truth_rows(captions: list[Caption], emoji_count: int) -> np.ndarray:
    """(captions, emoji_count) float32, each row a uniform distribution over the emoji the caption is true of."""
    rows = np.zeros((len(captions), emoji_count), dtype=np.float32)
    for row, caption in enumerate(captions):
        rows[row, list(caption.truths)] = 1.0 / len(caption.truths)
    return rows
