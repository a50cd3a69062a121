"""What the service runtime hosts: the servicer, and what must be open for it to answer.

Owns the order of opening and closing.
"""

import asyncio

from grpc import aio
from prometheus_client import CollectorRegistry

from index_service import fault_points
from index_service.access import ACCESS
from index_service.catalog import Catalog
from index_service.compaction import Compactor, Policy
from index_service.metrics import IndexMetrics
from index_service.query_reservoir import ReservoirSaver
from index_service.recall_probe import CpuBudget, RecallProbe
from index_service.recipes import engine_build
from index_service.servicer import SERVICE_NAME, IndexServicer, register
from index_service.settings import IndexSettings
from index_service.snapshots import Snapshots
from index_service.state_metrics import StateMetrics
from index_service.tunings import Tunings
from index_service.workers import Workers
from service_runtime.cores import usable_cores
from service_runtime.lifecycle import Lifecycle
from service_runtime.process_metrics import state_build


class IndexHost:
    """The index service, ready to be hosted."""

    service_name = SERVICE_NAME
    access = ACCESS

    def __init__(self, settings: IndexSettings, registry: CollectorRegistry) -> None:
        fault_points.arm(settings.fault_point)
        self._settings = settings
        self._metrics = IndexMetrics(registry)
        self._workers = Workers(settings.search_threads)
        self._state_metrics = StateMetrics(registry, settings.data_folder, self._metrics.collections)
        state_build(registry, "faiss", *engine_build())
        self._servicer = IndexServicer(settings, self._metrics)
        self._catalog: Catalog | None = None
        self._probe = RecallProbe(
            settings.recall_probe_share, CpuBudget(settings.recall_probe_cpu_share), self._metrics
        )
        self._compactor: Compactor | None = None
        self._reservoir_saver: ReservoirSaver | None = None
        self._tunings: Tunings | None = None

    def register(self, server: aio.Server) -> None:
        """Add the servicer to the server."""
        register(self._servicer, server)

    async def start(self, lifecycle: Lifecycle) -> None:  # noqa: ARG002
        """Open all collections; the server answers nobody before. Raises DataFolderError."""
        self._catalog = await asyncio.to_thread(self._open)
        self._compactor = Compactor(self._catalog.shards, self._metrics)
        self._state_metrics.watch(self._catalog.states)
        self._metrics.watch_queues(lambda: self._workers.waiting, self._catalog.queued_writes)
        self._reservoir_saver = ReservoirSaver(self._catalog.reservoirs)
        snapshots = Snapshots(self._catalog, self._settings.data_folder, self._settings.snapshot_urls)
        self._tunings = Tunings(self._catalog, self._settings.search_threads or usable_cores())
        self._servicer.serve(self._catalog, snapshots, self._tunings)

    def ailment(self) -> str:
        """None of its own: a search or a write that fails says so to its caller."""
        return ""

    async def drain(self) -> None:
        """End tunings, so that their callers don't wait; they are begun again at the next start."""
        if self._tunings is not None:
            await asyncio.to_thread(self._tunings.close)

    async def stop(self) -> None:
        """Let the work under way end, then close everything."""
        await asyncio.to_thread(self._close)

    def _open(self) -> Catalog:
        settings = self._settings
        return Catalog(
            settings.data_folder,
            self._workers,
            self._metrics,
            Policy(index_from_rows=settings.index_from_rows, seal_rows=settings.seal_rows),
            probe=self._probe,
            recorded_queries=settings.recorded_queries,
        )

    def _close(self) -> None:
        self._servicer.close()
        self._workers.close()
        self._probe.close()
        if self._reservoir_saver is not None:
            self._reservoir_saver.close()
        if self._catalog is not None:
            self._catalog.close()
        if self._compactor is not None:
            self._compactor.close()
