"""The golden canary: one caption and one picture, embedded again and again the way callers' items are.

Owns what is embedded, what it must become, and when that takes readiness away and gives it back. A long queue is no ill
health: the canary is late only while the device finishes no pass.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from embedder_service.backends import Backend, Tower
from embedder_service.batcher import Batcher
from embedder_service.checkpoint_files import DEMO_FOLDER, CheckpointError, CheckpointFiles
from embedder_service.golden import FILE_NAME, Golden, cosine, read_golden
from embedder_service.images import ImageDecoder
from embedder_service.items import Answer, Item, Priority
from embedder_service.metrics import EmbedderMetrics
from embedder_service.texts import CaptionTokenizer
from service_runtime.errors import ServiceError
from service_runtime.lifecycle import Lifecycle

_LOOK_SECONDS = 0.5
"""How often it is looked whether the device still finishes passes."""


@dataclass(frozen=True, slots=True)
class Case:
    """What one tower embeds, and what that must become."""

    row: np.ndarray
    """As the tower takes it, without its first axis."""
    golden: np.ndarray
    """(dimension,) float32 of length 1."""


def canary_cases(
    files: CheckpointFiles, fingerprint: str, tokenizer: CaptionTokenizer, decoder: ImageDecoder, reference: Backend
) -> dict[Tower, Case]:
    """A case for each tower of the ``reference``, a backend that computes in float32.

    Its golden vector comes from golden.json beside the weights; where that holds none, the reference computes it now.
    Raises CheckpointError when the file is of another vector space, or what should be embedded is refused.
    """
    path = files.folder / FILE_NAME
    bundled = read_golden(DEMO_FOLDER / FILE_NAME)
    stored = read_golden(path) if path.is_file() else Golden(fingerprint, "", (), ())
    if stored.fingerprint != fingerprint:
        raise CheckpointError(f"{path} is of fingerprint {stored.fingerprint}, the checkpoint has {fingerprint}")
    cases = {}
    for tower in reference.towers:
        if tower is Tower.TEXT:
            caption = (stored.captions or bundled.captions)[0]
            (tokenised,) = tokenizer.tokenise([caption.text], "captions")
            if isinstance(tokenised, ServiceError):
                raise CheckpointError(f"{files.name}: the canary's caption is refused: {tokenised.message}")
            row, known = tokenised.token_ids, caption.vector if stored.captions else None
        else:
            picture = (stored.pictures or bundled.pictures)[0]
            row, known = decoder.decode(picture.encoded, picture.name), picture.vector if stored.pictures else None
        cases[tower] = Case(row, reference.forward(tower, np.stack([row]))[0] if known is None else known)
    return cases


class Canary:
    """Embeds its cases through the batcher of an embedder. Lives on the event loop."""

    def __init__(
        self,
        batcher: Batcher,
        cases: Mapping[Tower, Case],
        least_cosine: float,
        late_seconds: float,
        lifecycle: Lifecycle,
        metrics: EmbedderMetrics,
    ) -> None:
        """``late_seconds`` is how long the device's next sign of life may be overdue."""
        self._batcher = batcher
        self._cases = cases
        self._least_cosine = least_cosine
        self._late_seconds = late_seconds
        self._lifecycle = lifecycle
        self._cosine = metrics.canary_cosine
        metrics.canary_least_cosine.set(least_cosine)

    async def check(self) -> str:
        """Embed every case; says what is wrong, and nothing when all is well. Withdraws readiness while it is late."""
        complaints = await asyncio.gather(*(self._check(tower, case) for tower, case in self._cases.items()))
        return "; ".join(filter(None, complaints))

    async def keep_checking(self, every_seconds: float) -> None:
        """Check for ever, and let readiness follow."""
        while True:
            await asyncio.sleep(every_seconds)
            if complaint := await self.check():
                self._lifecycle.withdraw(complaint)
            else:
                self._lifecycle.restore()

    async def _check(self, tower: Tower, case: Case) -> str:
        answer = Answer(1, len(case.golden), "canary")
        item = Item(tower, Priority.INTERACTIVE, float("inf"), row=case.row)
        answer.expect(item, 0)
        self._batcher.put([item])
        try:
            await self._arrival(answer, tower)
        except ServiceError as error:
            return self._failed(tower, error.message)
        finally:
            for forsaken in answer.leave():
                self._batcher.withdraw(forsaken)
        if answer.faults:
            return self._failed(tower, answer.faults[0].message)
        found = cosine(answer.vectors[0], case.golden)
        self._cosine.labels(tower).set(found)
        if found >= self._least_cosine:
            return ""
        return f"the canary of the {tower} tower has cosine {found:.5f}, expected at least {self._least_cosine}"

    async def _arrival(self, answer: Answer, tower: Tower) -> None:
        """Wait for the answer, however long the queue. Raises what fails it."""
        arrival = asyncio.ensure_future(answer.whole())
        try:
            while not (await asyncio.wait({arrival}, timeout=_LOOK_SECONDS))[0]:
                if late := self._batcher.stall(self._late_seconds):
                    self._lifecycle.withdraw(self._failed(tower, late))
            arrival.result()
        finally:
            arrival.cancel()

    def _failed(self, tower: Tower, why: str) -> str:
        self._cosine.labels(tower).set(0.0)
        return f"the canary of the {tower} tower failed: {why}"
