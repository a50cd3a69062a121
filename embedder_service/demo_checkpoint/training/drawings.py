"""The rendered art, kept on disk between runs.

Owns the cache of drawings; art draws them.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
from rich.progress import track

from . import art

DRAWING_SIZE = 80
"""Pixels a side of the cached drawings: a little more than the model sees, so that close-ups stay sharp."""


def load_drawings(node_modules: Path, style: str, emoji: list[art.Emoji], cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m,) and drawings (m, 80, 80, 4) uint8 of one style, rendered once and kept in ``cache``."""
    key = hashlib.sha256(json.dumps([style, DRAWING_SIZE, [one.hexcode for one in emoji]]).encode()).hexdigest()[:12]
    path = cache / f"{style}-{key}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        drawn = list(
            track(art.draw_style(node_modules, style, emoji, DRAWING_SIZE), f"drawing {style}", total=len(emoji))
        )
        partial = path.with_suffix(".part.npz")
        np.savez(partial, indices=np.array([i for i, _ in drawn]), drawings=np.stack([d for _, d in drawn]))
        partial.rename(path)
    with np.load(path, allow_pickle=False) as stored:
        return stored["indices"], stored["drawings"]
