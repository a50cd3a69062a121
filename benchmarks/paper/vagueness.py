"""Captions as vague as the paper's: the generator's own find their picture always, which no real caption does.

Owns how much of a random direction is added to each, so that exact search finds as many as in the paper.
"""

import numpy as np

from benchmarks.cross_modal import unit
from benchmarks.paper.task import Task

_SCALES = np.geomspace(2.0, 6.0, 14, dtype=np.float32)
_SEED = 7


def scale_for(task: Task, recall_at_10: float) -> float:
    """How long the random part must be beside a caption of length 1, for this exact task recall@10.

    Raises ValueError where none of the lengths that are tried comes to it.
    """
    captions, own = task.captions, task.own
    noise = _noise(captions)
    mine = unit(np.asarray(task.data.pictures[own]).astype(np.float32))
    right = _scores((captions * mine).sum(axis=1), (noise * mine).sum(axis=1))
    before = np.zeros((len(_SCALES), len(captions)))
    for piece in task.data.float32():
        pictures = unit(piece).T
        # A caption and its random part are compared apart, so that one pass serves every scale.
        theirs, random = captions @ pictures, noise @ pictures
        for place, scale in enumerate(_SCALES):
            before[place] += (theirs + scale * random > right[place][:, None] + 1e-6).sum(axis=1)
    recalls = (before < 10).mean(axis=1)
    if not recalls.min() <= recall_at_10 <= recalls.max():
        raise ValueError(f"recall@10 of {recall_at_10} is not between {recalls.min()} and {recalls.max()}")
    # Between two scales recall falls about evenly.
    return float(np.interp(recall_at_10, recalls[::-1], _SCALES[::-1]))


def blur(task: Task, scale: float) -> None:
    """Make the captions of a task that vague, those to tune on too."""
    task.captions = unit(task.captions + scale * _noise(task.captions))
    task.tuning_captions = unit(task.tuning_captions + scale * _noise(task.tuning_captions, _SEED + 1))


def _scores(theirs: np.ndarray, random: np.ndarray) -> np.ndarray:
    scores: np.ndarray = theirs + _SCALES[:, None] * random
    return scores


def _noise(captions: np.ndarray, seed: int = _SEED) -> np.ndarray:
    return unit(np.random.default_rng(seed).standard_normal(captions.shape, dtype=np.float32))
