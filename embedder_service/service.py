"""The life of the embedder inside the service runtime: load, warm up, serve, stop.

Owns how the parts are put together. Knows nothing of what they do.
"""

import asyncio
import logging
import time

import numpy as np
from grpc import aio
from prometheus_client import CollectorRegistry

from embedder_service.backends import Backend, Tower
from embedder_service.backends.torch_backend import TorchBackend, engine_build
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import CheckpointError, CheckpointFiles
from embedder_service.converters import to_model
from embedder_service.embedder import Embedder
from embedder_service.images import ImageDecoder
from embedder_service.metrics import EmbedderMetrics
from embedder_service.servicer import SERVICE_NAME, EmbedderServicer, register
from embedder_service.settings import EmbedderSettings
from embedder_service.tower_cost import TowerCost
from service_runtime.cores import usable_cores
from service_runtime.lifecycle import Lifecycle
from service_runtime.process_metrics import state_build

_logger = logging.getLogger("eyebright.embedder")


class EmbedderService:
    """What service_runtime hosts. Ready means that every tower loaded has just embedded something."""

    service_name = SERVICE_NAME

    def __init__(self, files: CheckpointFiles, settings: EmbedderSettings, registry: CollectorRegistry) -> None:
        self._files = files
        self._settings = settings
        self._registry = registry
        self._metrics = EmbedderMetrics(registry)
        self._server: aio.Server | None = None
        self._embedder: Embedder | None = None

    def register(self, server: aio.Server) -> None:
        """Remember the server: the servicer joins it once there is a model to answer for."""
        self._server = server

    async def start(self, lifecycle: Lifecycle) -> None:  # noqa: ARG002
        """Load the checkpoint and warm it up. Raises CheckpointError when it can't be served."""
        began = time.monotonic()
        checkpoint, backend, costs = await asyncio.to_thread(self._load)
        settings = self._settings
        self._embedder = Embedder(
            checkpoint.tokenizer,
            ImageDecoder(checkpoint.preprocessing, settings.max_image_bytes, settings.max_image_pixels),
            backend,
            checkpoint.dimension,
            costs,
            settings,
            self._metrics,
        )
        servicer = EmbedderServicer(self._embedder, to_model(checkpoint, backend, settings), settings.stream_window)
        assert self._server is not None, "register comes first"
        register(servicer, self._server)
        stated = {
            "model_name": checkpoint.name,
            "fingerprint": checkpoint.fingerprint,
            "dimension": str(checkpoint.dimension),
            "device": backend.device,
            "towers": ",".join(backend.towers),
            "revision": checkpoint.revision,
        }
        self._metrics.model.info(stated)
        state_build(self._registry, "torch", *engine_build(backend.device))
        seconds = round(time.monotonic() - began, 3)
        _logger.info("model loaded", extra=stated | {"folder": str(self._files.folder), "seconds": seconds})

    def ailment(self) -> str:
        """None of its own."""
        return ""

    async def drain(self) -> None:
        """Nothing goes on for long."""

    async def stop(self) -> None:
        """End the embedder's threads."""
        if self._embedder is not None:
            await self._embedder.stop()

    def _load(self) -> tuple[Checkpoint, Backend, dict[Tower, TowerCost]]:
        settings = self._settings
        if (commit := self._files.revision) and commit != settings.revision:
            _logger.warning(
                "revision not pinned", extra={"model_name": self._files.name, "pin": f"--revision {commit}"}
            )
        towers = tuple(Tower) if settings.towers == "both" else (Tower(settings.towers),)
        checkpoint = load_checkpoint(self._files, settings.max_text_bytes, towers)
        threads = settings.torch_threads or usable_cores()
        try:
            backend = TorchBackend(checkpoint.towers, checkpoint.preprocessing, settings.device, threads)
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise CheckpointError(f"device {settings.device} can't be used: {error}") from error
        return checkpoint, backend, _warm_up(backend, checkpoint, settings.batch_limit)


def _warm_up(backend: Backend, checkpoint: Checkpoint, batch_limit: int) -> dict[Tower, TowerCost]:
    """What each tower that is loaded costs, from one pass. Raises CheckpointError when a vector is not of length 1."""
    side = checkpoint.preprocessing.size
    caption = checkpoint.tokenizer.tokenise(["a photo"], "texts")[0]
    if isinstance(caption, Exception):
        raise CheckpointError(f"{checkpoint.name}: the tokenizer refuses 'a photo': {caption}")
    rows = {Tower.TEXT: caption.token_ids, Tower.IMAGE: np.full((side, side, 3), 127, np.uint8)}
    costs = {}
    for tower in backend.towers:
        began = time.monotonic()
        vectors = backend.forward(tower, rows[tower][None])
        costs[tower] = TowerCost(batch_limit, {1: time.monotonic() - began})
        length = float(np.linalg.norm(vectors[0]))
        if vectors.shape != (1, checkpoint.dimension) or not abs(length - 1) < 1e-3:
            raise CheckpointError(
                f"{checkpoint.name}: expected a vector of {checkpoint.dimension} numbers and length 1 from the {tower} "
                f"tower, not shape {vectors.shape[1:]} and length {length:.3g}"
            )
    return costs
