"""Batches for training: which emoji, which styles, which captions, and which pairs of them are true.

Owns sampling and the pair masks. Rendering lives in art, pixels in augment, words in captions.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer

from . import art, augment
from .captions import Caption, CaptionWriter, truth_rows
from .drawings import load_drawings
from .network import IMAGE_SIZE

_STYLE_WEIGHTS = {"fluent-3d": 0.45, "fluent-emoji": 0.35, "fluent-emoji-flat": 0.45}
_NO_MIRROR = ("left", "right", "clock", "facing", "arrow", "flag", "hand", "point")
_SCENES_PER_BATCH = 0.06
_RUN_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """One process's share of a step; n pictures, n captions."""

    pixels: torch.Tensor
    """(n, 3, 64, 64) float in [-1, 1]."""
    ids: torch.Tensor
    """(n, 20) token ids."""
    pairs: torch.Tensor
    """(n, n) caption x picture: 1 true, -1 false, 0 not judged."""
    image_truth: torch.Tensor
    """(n, emoji) a distribution over emoji for each picture."""
    text_truth: torch.Tensor
    """(n, emoji) the same for each caption."""
    single: torch.Tensor
    """(n,) bool: the picture shows one emoji."""
    emoji: torch.Tensor
    """(n,) index of the (first) emoji in each picture."""


class Sampler:
    """Draws batches: half as many emoji as pictures, each in two styles or one twice, each with its own caption."""

    def __init__(self, node_modules: Path, cache: Path, tokenizer: Tokenizer, seed: int) -> None:
        self.emoji = art.read_emoji(node_modules)
        self._writer = CaptionWriter(self.emoji)
        self._tokenizer = tokenizer
        self._random = Random(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._mirrors = [
            one.group != "symbols" and not any(word in one.label for word in _NO_MIRROR) for one in self.emoji
        ]
        self._drawings: list[torch.Tensor] = []
        self._views: list[list[tuple[int, int, float]]] = [[] for _ in self.emoji]
        for number, style in enumerate(art.TRAINING_STYLES):
            indices, drawings = load_drawings(node_modules, style, self.emoji, cache)
            self._drawings.append(torch.from_numpy(drawings).permute(0, 3, 1, 2).contiguous())
            for row, index in enumerate(indices.tolist()):
                self._views[index].append((number, row, _STYLE_WEIGHTS.get(style, 1.0)))
        self._deck: list[int] = []

    def draw(self, count: int, twins: float) -> Batch:
        """A batch of ``count`` pictures (even) and captions.

        A share ``twins`` of the pairs is one drawing twice; where there are any, half the emoji are look-alikes.
        """
        alike = self._deal_alike(count // 4) if twins else []
        emoji = [index for index in alike + self._deal(count // 2 - len(alike)) for _ in range(2)]
        scenes = round(count * _SCENES_PER_BATCH)
        seconds = {row: self._random.randrange(len(self.emoji)) for row in self._random.sample(range(count), scenes)}
        pixels, named = self._paint(emoji, seconds, twins)
        captions = [
            self._writer.write_scene(index, seconds[row], self._random)
            if row in seconds
            else self._writer.write(index, named[row], self._random)
            for row, index in enumerate(emoji)
        ]
        image_truth = np.zeros((count, len(self.emoji)), dtype=np.float32)
        for row, index in enumerate(emoji):
            shown = {index, seconds.get(row, index)}
            image_truth[row, list(shown)] = 1.0 / len(shown)
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch([caption.text for caption in captions])]
        return Batch(
            pixels=pixels,
            ids=torch.tensor(ids),
            pairs=torch.from_numpy(self._judge(captions, emoji, seconds, named)),
            image_truth=torch.from_numpy(image_truth),
            text_truth=torch.from_numpy(truth_rows(captions, len(self.emoji))),
            single=torch.tensor([row not in seconds for row in range(count)]),
            emoji=torch.tensor(emoji),
        )

    def _deal(self, count: int) -> list[int]:
        """The next emoji of a shuffled deck; a new deck when it runs out."""
        if len(self._deck) < count:
            self._deck = list(range(len(self.emoji)))
            self._random.shuffle(self._deck)
        hand, self._deck = self._deck[:count], self._deck[count:]
        return hand

    def _deal_alike(self, count: int) -> list[int]:
        """Runs of neighbours in Unicode's order: families, clocks, arrows, which only a close look tells apart."""
        begins = range(0, len(self.emoji) - _RUN_LENGTH, _RUN_LENGTH)
        return [begin + n for begin in self._random.sample(begins, count // _RUN_LENGTH) for n in range(_RUN_LENGTH)]

    def _pick(self, index: int, taken: int | None) -> tuple[int, int]:
        """(style, row) of a drawing of this emoji; four times in five another style than ``taken``."""
        views = self._views[index]
        weights = [w * (0.25 if style == taken else 1.0) for style, _, w in views]
        style, row, _ = self._random.choices(views, weights)[0]
        return style, row

    def _paint(self, emoji: list[int], seconds: dict[int, int], twins: float) -> tuple[torch.Tensor, list[str | None]]:
        picked: list[tuple[int, int]] = []
        for index in emoji[::2]:
            first = self._pick(index, None)
            picked += [first, first if self._random.random() < twins else self._pick(index, first[0])]
        extra = [self._pick(index, None) for index in seconds.values()]
        drawings = torch.stack([self._drawings[style][row] for style, row in picked + extra])
        mirror = torch.tensor([self._mirrors[i] and self._random.random() < 0.4 for i in [*emoji, *seconds.values()]])
        side = torch.zeros(len(drawings))
        side[list(seconds)] = -1.0
        side[len(emoji) :] = 1.0
        layers = augment.place(drawings, IMAGE_SIZE, mirror, side, self._generator)
        canvas, named = augment.backgrounds(len(emoji), IMAGE_SIZE, self._generator)
        images = layers[: len(emoji), :3] + canvas * (1 - layers[: len(emoji), 3:])
        for layer, row in zip(layers[len(emoji) :], seconds, strict=True):
            images[row] = layer[:3] + images[row] * (1 - layer[3:])
        return augment.photograph(images, self._generator).mul_(2).sub_(1), named

    @staticmethod
    def _judge(
        captions: list[Caption], emoji: list[int], seconds: dict[int, int], named: list[str | None]
    ) -> np.ndarray:
        """(captions, pictures): 1 true, -1 false, 0 where the caption says more or less than the picture shows."""
        verdicts = np.full((len(captions), len(emoji)), -1.0, dtype=np.float32)
        for row, caption in enumerate(captions):
            truths = set(caption.truths)
            for column, index in enumerate(emoji):
                shown = {index, seconds.get(column, index)}
                if row == column:
                    verdicts[row, column] = 1.0
                elif truths & shown:
                    whole = not caption.scene and column not in seconds
                    same_ground = caption.background is None or caption.background == named[column]
                    verdicts[row, column] = 1.0 if whole and same_ground else 0.0
        return verdicts
