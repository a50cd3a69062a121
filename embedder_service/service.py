"""The life of the embedder inside the service runtime: load, warm up, serve, stop.

Owns how the parts are put together. Knows nothing of what they do.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from grpc import aio
from prometheus_client import CollectorRegistry

from embedder_service.access import ACCESS
from embedder_service.backends import Backend, Tower
from embedder_service.backends.reference import ReferenceBackend
from embedder_service.backends.torch_backend import TorchBackend, engine_build
from embedder_service.canary import Canary, Case, canary_cases
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import CheckpointError, CheckpointFiles
from embedder_service.converters import to_model
from embedder_service.embedder import Embedder
from embedder_service.golden import LEAST_COSINE
from embedder_service.images import ImageDecoder
from embedder_service.metrics import EmbedderMetrics
from embedder_service.parallelism import choose_workers
from embedder_service.servicer import SERVICE_NAME, EmbedderServicer, register
from embedder_service.settings import EmbedderSettings
from embedder_service.sweep import sweep
from embedder_service.tower_cost import TowerCost
from service_runtime.cores import usable_cores
from service_runtime.lifecycle import Lifecycle
from service_runtime.memory import keep_freed_memory
from service_runtime.process_metrics import state_build

_CANARY_LIMIT = 1_000_000
"""Bytes and pixels of the canary's picture, at most; the limits of callers' pictures may be narrower."""

_IN_FLIGHT = 2
"""Passes in flight where one after another is computed."""

_logger = logging.getLogger("eyebright.embedder")


class EmbedderService:
    """What service_runtime hosts. Ready means that every tower loaded has just embedded something as it should."""

    service_name = SERVICE_NAME
    access = ACCESS

    def __init__(self, files: CheckpointFiles, settings: EmbedderSettings, registry: CollectorRegistry) -> None:
        self._files = files
        self._settings = settings
        self._registry = registry
        self._metrics = EmbedderMetrics(registry)
        self._server: aio.Server | None = None
        self._embedder: Embedder | None = None
        self._checking: asyncio.Task[None] | None = None

    def register(self, server: aio.Server) -> None:
        """Remember the server: the servicer joins it once there is a model to answer for."""
        self._server = server

    async def start(self, lifecycle: Lifecycle) -> None:
        """Load the checkpoint, warm it up and check it. Raises CheckpointError when it can't be served."""
        began = time.monotonic()
        keep_freed_memory()
        # In a thread that ends: one that has run torch keeps OpenMP threads of its own, and where these are more than
        # the cores, the device thread's no longer spin while they wait, which a small batch notices.
        with ThreadPoolExecutor(1, "load") as loader:
            loading = asyncio.get_running_loop().run_in_executor(loader, self._load)
            checkpoint, backend, costs, workers, cases = await loading
        settings = self._settings
        self._embedder = Embedder(
            checkpoint.tokenizer,
            ImageDecoder(checkpoint.preprocessing, settings.max_image_bytes, settings.max_image_pixels),
            backend,
            checkpoint.dimension,
            costs,
            settings,
            self._metrics,
            workers,
        )
        await self._watch(self._embedder, cases, LEAST_COSINE[backend.precision], lifecycle)
        servicer = EmbedderServicer(self._embedder, to_model(checkpoint, backend, settings), settings.stream_window)
        assert self._server is not None, "register comes first"
        register(servicer, self._server)
        stated = {
            "model_name": checkpoint.name,
            "fingerprint": checkpoint.fingerprint,
            "dimension": str(checkpoint.dimension),
            "device": backend.device,
            "precision": backend.precision,
            "towers": ",".join(backend.towers),
            "revision": checkpoint.revision,
        }
        self._metrics.model.info(stated)
        state_build(self._registry, "torch", *engine_build(backend.device))
        at_once = self._embedder.batcher.passes_at_once
        loaded = {
            "folder": str(self._files.folder),
            "workers": workers,
            "batch_limits": {tower: cost.batch_limit for tower, cost in costs.items()},
            "item_seconds": {
                tower: cost.seconds(cost.batch_limit) / cost.batch_limit / at_once for tower, cost in costs.items()
            },
            "seconds": round(time.monotonic() - began, 3),
        }
        _logger.info("model loaded", extra=stated | loaded)

    async def _watch(
        self, embedder: Embedder, cases: Mapping[Tower, Case], least_cosine: float, lifecycle: Lifecycle
    ) -> None:
        """Tell the lifecycle of a dead device thread, and of what the canary finds, from its first check on."""
        embedder.batcher.failed.add_done_callback(lambda failed: lifecycle.fail(failed.result()))
        settings = self._settings
        canary = Canary(embedder.batcher, cases, least_cosine, settings.stall_seconds / 2, lifecycle, self._metrics)
        if complaint := await canary.check():
            raise CheckpointError(f"{self._files.name}: {complaint}")
        lifecycle.restore()

        def ended(checking: asyncio.Task[None]) -> None:
            if not checking.cancelled() and (error := checking.exception()) is not None:
                lifecycle.fail(error)

        self._checking = asyncio.create_task(canary.keep_checking(settings.canary_seconds))
        self._checking.add_done_callback(ended)

    def ailment(self) -> str:
        """That the device hangs."""
        return self._embedder.batcher.stall(self._settings.stall_seconds) if self._embedder is not None else ""

    async def drain(self) -> None:
        """End the canary; nothing else goes on for long."""
        if self._checking is not None:
            self._checking.cancel()

    async def stop(self) -> None:
        """End the embedder's threads."""
        if self._embedder is not None:
            await self._embedder.stop()

    def _load(self) -> tuple[Checkpoint, Backend, dict[Tower, TowerCost], int, dict[Tower, Case]]:
        settings = self._settings
        if (commit := self._files.revision) and commit != settings.revision:
            _logger.warning(
                "revision not pinned", extra={"model_name": self._files.name, "pin": f"--revision {commit}"}
            )
        towers = tuple(Tower) if settings.towers == "both" else (Tower(settings.towers),)
        checkpoint = load_checkpoint(self._files, settings.max_text_bytes, towers)
        threads = settings.torch_threads or usable_cores()
        try:
            backend = TorchBackend(
                checkpoint.towers, checkpoint.preprocessing, settings.device, threads, settings.precision
            )
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
            raise CheckpointError(f"device {settings.device} can't be used: {error}") from error
        decoder = ImageDecoder(checkpoint.preprocessing, _CANARY_LIMIT, _CANARY_LIMIT)
        reference = ReferenceBackend(checkpoint.towers, checkpoint.preprocessing)
        cases = canary_cases(self._files, checkpoint.fingerprint, checkpoint.tokenizer, decoder, reference)
        rows = _specimens(checkpoint)
        workers = settings.workers or (_IN_FLIGHT if backend.serial else 1)
        if settings.device == "cpu" and not settings.workers:
            passes = [partial(backend.forward, tower, rows[tower][None]) for tower in backend.towers]
            workers = choose_workers(passes, threads)
        backend.threads.share(workers, lone_takes_all=False)  # as the warm-up is for times of many
        costs = _warm_up(backend, checkpoint, rows, settings)
        backend.threads.share(workers, lone_takes_all=True)
        return checkpoint, backend, costs, workers, cases


def _specimens(checkpoint: Checkpoint) -> dict[Tower, np.ndarray]:
    """A row for each tower. Raises CheckpointError when there is none."""
    side = checkpoint.preprocessing.size
    caption = checkpoint.tokenizer.tokenise(["a photo"], "texts")[0]
    if isinstance(caption, Exception):
        raise CheckpointError(f"{checkpoint.name}: the tokenizer refuses 'a photo': {caption}")
    return {Tower.TEXT: caption.token_ids, Tower.IMAGE: np.full((side, side, 3), 127, np.uint8)}


def _warm_up(
    backend: Backend, checkpoint: Checkpoint, rows: Mapping[Tower, np.ndarray], settings: EmbedderSettings
) -> dict[Tower, TowerCost]:
    """What each tower that is loaded costs, measured. Raises CheckpointError when a vector is not of length 1."""
    limit = settings.batch_limit
    sizes = [size for size in settings.warm_up_sizes if size <= limit] or [limit]
    costs = {}
    for tower in backend.towers:
        vectors = backend.forward(tower, rows[tower][None])
        length = float(np.linalg.norm(vectors[0]))
        if vectors.shape != (1, checkpoint.dimension) or not abs(length - 1) < 1e-3:
            raise CheckpointError(
                f"{checkpoint.name}: expected a vector of {checkpoint.dimension} numbers and length 1 from the {tower} "
                f"tower, not shape {vectors.shape[1:]} and length {length:.3g}"
            )
        costs[tower] = sweep(backend, tower, rows[tower], sizes, settings.warm_up_seconds)
    return costs
