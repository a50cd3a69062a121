"""Captions and encoded images in, vectors and faults out.

Owns the way of one request through decoding or tokenising, the queue and the forward pass, and what it took. Knows no
protobuf and no torch.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from embedder_service.admission import Admission
from embedder_service.backends import Backend, Tower
from embedder_service.batcher import Batcher, Forwarded
from embedder_service.images import ImageDecoder
from embedder_service.metrics import EmbedderMetrics
from embedder_service.settings import EmbedderSettings
from embedder_service.texts import CaptionTokenizer
from service_runtime.cores import usable_cores
from service_runtime.errors import FailedPrecondition, InvalidArgument, ServiceError

_Spans = list[tuple[float, float]]
"""(began, ended) on time.monotonic()'s scale; threads append, which is atomic."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds by stage, as EmbedTimings states them."""

    decode_seconds: float
    queue_seconds: float
    forward_seconds: float


@dataclass(slots=True)
class Embeddings:
    """The answer to one request of n items."""

    vectors: np.ndarray
    """(n, dimension) float32; the row of an item that failed is all zeros."""
    faults: dict[int, ServiceError]
    """What was wrong, by position."""
    timings: Timings
    truncated: list[int] = field(default_factory=list)
    """Positions of captions that were cut."""


class Embedder:
    """Embeds requests for callers on one event loop. ``stop()`` it at the end."""

    def __init__(
        self,
        tokenizer: CaptionTokenizer,
        decoder: ImageDecoder,
        backend: Backend,
        dimension: int,
        settings: EmbedderSettings,
        metrics: EmbedderMetrics,
    ) -> None:
        self._tokenizer = tokenizer
        self._towers = backend.towers
        self._decoder = decoder
        self._dimension = dimension
        self._max_items = settings.max_items
        self._metrics = metrics
        self._batcher = Batcher(backend, settings.batch_limit, metrics)
        self._admission = {tower: Admission(tower, settings.queue_limit, metrics) for tower in Tower}
        threads = settings.decode_threads or usable_cores()
        self._decoders = ThreadPoolExecutor(threads, "decode")
        # Captions have a thread of their own, so that none stands behind hundreds of images.
        self._tokenisers = ThreadPoolExecutor(1, "tokenise")

    async def stop(self) -> None:
        """End every thread; what still waits fails with Unavailable."""
        await self._batcher.stop()
        self._decoders.shutdown(cancel_futures=True)
        self._tokenisers.shutdown(cancel_futures=True)

    async def wait_for_room(self, tower: Tower, count: int) -> None:
        """Wait until a request of a stream may be embedded; see Admission."""
        await self._admission[tower].wait_for_room(count)

    async def embed_texts(self, texts: Sequence[str], deadline: float) -> Embeddings:
        """Embed captions by ``deadline`` (on time.monotonic()'s scale).

        Raises InvalidArgument for a wrong number of captions, FailedPrecondition without a text tower,
        ResourceExhausted when the queue is full.
        """
        with self._admitted(Tower.TEXT, len(texts), "texts"):
            began = time.monotonic()
            tokenise = self._tokenizer.tokenise
            captions = await asyncio.get_running_loop().run_in_executor(self._tokenisers, tokenise, texts, "texts")
            faults: dict[int, ServiceError] = {}
            rows: dict[int, np.ndarray] = {}
            truncated = []
            for position, caption in enumerate(captions):
                if isinstance(caption, InvalidArgument):
                    faults[position] = caption
                    continue
                rows[position] = caption.token_ids
                if caption.truncated:
                    truncated.append(position)
            seconds = time.monotonic() - began
            self._metrics.stage_latency_seconds.labels("tokenise", Tower.TEXT).observe(seconds)
            self._metrics.rejected_items.labels(Tower.TEXT, "invalid").inc(len(faults))
            futures = self._batcher.submit(Tower.TEXT, list(rows.values()), deadline)
            outcomes = dict(zip(rows, await asyncio.gather(*futures, return_exceptions=True), strict=True))
            return self._collected(len(texts), faults | outcomes, seconds, truncated)

    async def embed_images(self, images: Sequence[bytes], deadline: float) -> Embeddings:
        """Embed encoded images by ``deadline`` (on time.monotonic()'s scale).

        Raises InvalidArgument for a wrong number of images, FailedPrecondition without an image tower,
        ResourceExhausted when the queue is full.
        """
        with self._admitted(Tower.IMAGE, len(images), "images"):
            decoding: _Spans = []
            jobs = (
                self._embed_image(encoded, f"images[{position}]", deadline, decoding)
                for position, encoded in enumerate(images)
            )
            outcomes = await asyncio.gather(*jobs, return_exceptions=True)
            return self._collected(len(images), dict(enumerate(outcomes)), _covered_seconds(decoding), [])

    async def _embed_image(self, encoded: bytes, field: str, deadline: float, decoding: _Spans) -> Forwarded:
        pixels = await asyncio.get_running_loop().run_in_executor(
            self._decoders, self._decode, encoded, field, decoding
        )
        (future,) = self._batcher.submit(Tower.IMAGE, [pixels], deadline)
        return await future

    def _decode(self, encoded: bytes, field: str, decoding: _Spans) -> np.ndarray:
        """Runs in a thread of the pool."""
        began = time.monotonic()
        try:
            return self._decoder.decode(encoded, field)
        except InvalidArgument:
            self._metrics.rejected_items.labels(Tower.IMAGE, "invalid").inc()
            raise
        finally:
            ended = time.monotonic()
            decoding.append((began, ended))
            self._metrics.stage_latency_seconds.labels("decode", Tower.IMAGE).observe(ended - began)

    def _admitted(self, tower: Tower, count: int, field: str) -> AbstractContextManager[None]:
        if tower not in self._towers:
            raise FailedPrecondition(f"the {tower} tower is not loaded; loaded here: {', '.join(self._towers)}")
        if not 1 <= count <= self._max_items:
            raise InvalidArgument(f"expected 1 to {self._max_items} items, not {count}", field=field)
        return self._admission[tower].admit(count)

    def _collected(
        self,
        count: int,
        outcomes: dict[int, ServiceError | Forwarded | BaseException],
        decode_seconds: float,
        truncated: list[int],
    ) -> Embeddings:
        """Raises whatever is neither a vector nor the fault of an item."""
        vectors = np.zeros((count, self._dimension), np.float32)
        faults: dict[int, ServiceError] = {}
        queue_seconds = forward_seconds = 0.0
        for position, outcome in outcomes.items():
            if isinstance(outcome, Forwarded):
                vectors[position] = outcome.vector
                queue_seconds = max(queue_seconds, outcome.queue_seconds)
                forward_seconds = max(forward_seconds, outcome.forward_seconds)
            elif isinstance(outcome, ServiceError):
                faults[position] = outcome
            else:
                raise outcome
        return Embeddings(vectors, faults, Timings(decode_seconds, queue_seconds, forward_seconds), truncated)


def _covered_seconds(spans: _Spans) -> float:
    """From the first beginning to the last end; 0 without any."""
    return max(ended for _, ended in spans) - min(began for began, _ in spans) if spans else 0.0
