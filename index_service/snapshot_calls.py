"""The gRPC side of snapshots: requests checked, progress streamed, results as messages.

Owns the one thread that snapshots and restores run in, one after another, and their end when a caller goes away.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from eyebright.index.v1 import collection_pb2, snapshot_pb2
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from index_service.collection import Collection
from index_service.collection_converters import (
    METRIC_NUMBERS,
    check_collection_name,
    check_fingerprint,
    collection_message,
)
from index_service.snapshot_task import Phase, Task
from index_service.snapshots import Snapshot, Snapshots

_PROGRESS_SECONDS = 0.25
_PHASES = {
    Phase.WAITING: snapshot_pb2.SNAPSHOT_PHASE_WAITING,
    Phase.COPYING: snapshot_pb2.SNAPSHOT_PHASE_COPYING,
    Phase.TRANSFERRING: snapshot_pb2.SNAPSHOT_PHASE_TRANSFERRING,
    Phase.OPENING: snapshot_pb2.SNAPSHOT_PHASE_OPENING,
    Phase.DONE: snapshot_pb2.SNAPSHOT_PHASE_DONE,
}

Result = TypeVar("Result")
Context = aio.ServicerContext[Any, Any]


class SnapshotCalls:
    """Answers CreateSnapshot and RestoreSnapshot."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "snapshot")
        self._tasks: set[Task] = set()
        self._snapshots: Snapshots

    def serve(self, snapshots: Snapshots) -> None:
        """Answer with these."""
        self._snapshots = snapshots

    def close(self) -> None:
        """End the work under way."""
        for task in list(self._tasks):
            task.stop()
        self._thread.shutdown(cancel_futures=True)

    async def create(
        self, request: snapshot_pb2.CreateSnapshotRequest, context: Context
    ) -> AsyncIterator[snapshot_pb2.CreateSnapshotResponse]:
        """Make a snapshot."""

        def work(task: Task) -> Snapshot:
            return self._snapshots.create(request.collection, request.url, task)

        async for task, snapshot in self._run(work, context):
            yield snapshot_pb2.CreateSnapshotResponse(
                progress=_progress_message(task), snapshot=None if snapshot is None else _snapshot_message(snapshot)
            )

    async def restore(
        self, request: snapshot_pb2.RestoreSnapshotRequest, context: Context
    ) -> AsyncIterator[snapshot_pb2.RestoreSnapshotResponse]:
        """Make a collection from a snapshot."""
        if request.collection:
            check_collection_name("collection", request.collection)
        if request.expected_fingerprint:
            check_fingerprint("expected_fingerprint", request.expected_fingerprint)

        def work(task: Task) -> tuple[Collection, Snapshot]:
            return self._snapshots.restore(request.url, request.collection, request.expected_fingerprint, task)

        async for task, result in self._run(work, context):
            message = snapshot_pb2.RestoreSnapshotResponse(progress=_progress_message(task))
            if result is not None:
                collection, snapshot = result
                message.collection.CopyFrom(collection_message(collection))
                message.snapshot.CopyFrom(_snapshot_message(snapshot))
            yield message

    async def _run(self, work: Callable[[Task], Result], context: Context) -> AsyncIterator[tuple[Task, Result | None]]:
        """Do work in the thread; the task at once, now and then while it runs, and at the end with the result."""
        task = Task()
        self._tasks.add(task)
        future = asyncio.get_running_loop().run_in_executor(self._thread, copy_context().run, work, task)

        def forget(_: object) -> None:
            self._tasks.discard(task)
            if not future.cancelled():
                future.exception()  # whoever was told to stop need not be heard

        future.add_done_callback(forget)
        context.add_done_callback(lambda _: task.stop())  # type: ignore[arg-type]
        try:
            while not future.done():
                yield task, None
                await asyncio.wait({future}, timeout=_PROGRESS_SECONDS)
            yield task, future.result()
        finally:
            task.stop()
            future.cancel()  # when it has not begun


def _progress_message(task: Task) -> snapshot_pb2.SnapshotProgress:
    return snapshot_pb2.SnapshotProgress(
        phase=_PHASES[task.phase], bytes_done=task.bytes_done, bytes_total=task.bytes_total
    )


def _snapshot_message(snapshot: Snapshot) -> snapshot_pb2.Snapshot:
    manifest = snapshot.manifest
    created = Timestamp()
    created.FromNanoseconds(manifest.create_time_ns)
    metric: collection_pb2.Metric = METRIC_NUMBERS[manifest.space.metric]
    return snapshot_pb2.Snapshot(
        url=snapshot.url,
        collection=manifest.collection,
        fingerprint=manifest.space.fingerprint,
        dimension=manifest.space.dimension,
        metric=metric,
        shard_count=len(manifest.shards),
        record_count=manifest.record_count,
        shards=[
            snapshot_pb2.ShardSnapshot(applied_sequence=shard.applied_sequence, record_count=shard.record_count)
            for shard in manifest.shards
        ],
        bytes=manifest.size_bytes,
        create_time=created,
    )
