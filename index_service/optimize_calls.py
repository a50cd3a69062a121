"""The gRPC side of tunings: requests checked, progress streamed, what was found as messages.

Owns how long a call waits for a tuning: until its end, or until the caller goes away or the service stops.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from eyebright.index.v1 import optimize_pb2
from grpc import aio

from index_service.catalog import Catalog
from index_service.tuning_converters import parse_request, progress_message, result_message
from index_service.tuning_task import TuningTask
from index_service.tunings import Tunings

_PROGRESS_SECONDS = 0.25

Context = aio.ServicerContext[Any, Any]


class OptimizeCalls:
    """Answers Optimize and GetTuning."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        """``threads`` are for parsing requests."""
        self._threads = threads
        self._catalog: Catalog
        self._tunings: Tunings

    def serve(self, catalog: Catalog, tunings: Tunings) -> None:
        """Answer with these."""
        self._catalog = catalog
        self._tunings = tunings

    async def optimize(
        self, request: optimize_pb2.OptimizeRequest, _: Context
    ) -> AsyncIterator[optimize_pb2.OptimizeResponse]:
        """Tune a collection."""
        loop = asyncio.get_running_loop()
        task = await loop.run_in_executor(self._threads, copy_context().run, self._join, request)
        try:
            result = asyncio.wrap_future(task.result)
            while not result.done():
                yield optimize_pb2.OptimizeResponse(progress=progress_message(task))
                await asyncio.wait({result}, timeout=_PROGRESS_SECONDS)
            yield optimize_pb2.OptimizeResponse(progress=progress_message(task), result=result_message(result.result()))
        finally:
            self._tunings.leave(task)

    def get(self, request: optimize_pb2.GetTuningRequest) -> optimize_pb2.GetTuningResponse:
        """Say what was found last."""
        collection = self._catalog.get(request.collection)
        tuning, task = collection.config.tuning, self._tunings.under_way(collection)
        return optimize_pb2.GetTuningResponse(
            last=None if tuning is None else result_message(tuning),
            under_way=None if task is None else progress_message(task),
        )

    def _join(self, request: optimize_pb2.OptimizeRequest) -> TuningTask:
        collection = self._catalog.get(request.collection)
        return self._tunings.join(collection, parse_request(request, collection))
