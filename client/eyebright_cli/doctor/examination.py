"""The embedder that is examined, and how a check becomes a finding.

Owns how vectors are asked for and compared, how close is close enough, and the one check that every service has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from eyebright_client import Client, Embeddings, EyebrightError, Model

from eyebright_cli.doctor.golden import Golden

Outcome: TypeAlias = Literal["ok", "failed", "skipped"]
TowerName: TypeAlias = Literal["text", "image"]
Item: TypeAlias = str | bytes
"""A caption, or an encoded picture."""

_SAME: dict[str, float] = {"fp32": 0.99999, "fp16": 0.9999, "bf16": 0.999, "int8": 0.99}
"""Least cosine of two vectors of one item, by precision: batches of other sizes are added up in another order."""

_GOLDEN: dict[str, float] = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.999, "int8": 0.99}
"""Least cosine of a vector and its golden one, which was computed in fp32, maybe by other versions of the libraries."""


class CheckFailed(Exception):
    """The check found a fault; the message states it with its figures."""


class NotChecked(Exception):
    """The check can't be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A running embedder. ``golden`` is what its vectors are to be held against, if there is anything; ``collection``
    the only one of the index that is judged, if not all are.
    """

    client: Client
    model: Model
    golden: Golden | None = None
    collection: str | None = None

    def answer(self, tower: TowerName, items: Sequence[Item]) -> Embeddings:
        """The answer to one request; captions go through the model even if the embedder remembers them."""
        given: Any = list(items)
        return self.client.embed_texts(given, recompute=True) if tower == "text" else self.client.embed_images(given)

    def vectors(self, tower: TowerName, items: Sequence[Item]) -> np.ndarray:
        """Vectors (n, dimension) of captions or encoded pictures, in one request. Raises CheckFailed when one is
        refused.
        """
        answer = self.answer(tower, items)
        if answer.errors:
            position, error = next(iter(answer.errors.items()))
            raise CheckFailed(f"item {position} of {len(answer)} was refused: {error}")
        return answer.vectors

    @property
    def same(self) -> float:
        """Least cosine of two vectors of one item."""
        return _SAME.get(self.model.precision, _SAME["fp32"])

    @property
    def near_golden(self) -> float:
        """Least cosine of a vector and its golden one."""
        return _GOLDEN.get(self.model.precision, _GOLDEN["fp32"])


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    look: Callable[[Subject], str]
    """Returns what was found, with figures. Raises CheckFailed, NotChecked, or the SDK's errors."""
    meaning: str
    """What it likely means when it fails."""
    tower: TowerName | None = None
    """The tower it needs."""


def health_check(name: str, service: Literal["embedder", "index"]) -> Check:
    """Whether a service says that it serves."""

    def look(subject: Subject) -> str:
        status = subject.client.health(service)
        if status != "serving":
            raise CheckFailed(f"expected status serving, not {status}")
        return status

    return Check(name, look, "It starts, stops, or is ill: its log and /readyz say why")


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a check."""

    check: str
    outcome: Outcome
    said: str
    meaning: str = ""
    """What it likely means; empty unless it failed."""


def examine(check: Check, subject: Subject) -> Finding:
    """Make the check."""
    if check.tower is not None and check.tower not in subject.model.towers:
        return Finding(check.name, "skipped", f"the {check.tower} tower is not loaded")
    try:
        return Finding(check.name, "ok", check.look(subject))
    except NotChecked as reason:
        return Finding(check.name, "skipped", str(reason))
    except (CheckFailed, EyebrightError) as fault:
        return Finding(check.name, "failed", str(fault), check.meaning)


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Cosine of each row with the row beside it, (n,) float64; 0 where a row is zeros."""
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products: np.ndarray = np.einsum("nd,nd->n", ours, theirs) / np.maximum(lengths, 1e-30)
    return products


def check_same(ours: np.ndarray, theirs: np.ndarray, least: float, names: Sequence[str] = ()) -> str:
    """The least cosine, in words. Raises CheckFailed when it is under ``least``; ``names`` say whose it is."""
    found = cosines(ours, theirs)
    worst = int(found.argmin())
    said = f"least cosine {found[worst]:.7f} of {len(found)}, at least {least:g} expected"
    if not found[worst] >= least:  # also NaN
        raise CheckFailed(f"{said} ({names[worst]})" if names else said)
    return said
