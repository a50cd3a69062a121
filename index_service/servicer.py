"""The gRPC side of the index service: parse, call, reply.

Owns which thread does what: a request is worked on in a thread of its own from parsing to the finished answer, so that
the event loop is free for others. Decides nothing about records or vectors.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import grpc
from eyebright.index.v1 import (
    collection_pb2,
    index_service_pb2,
    index_service_pb2_grpc,
    optimize_pb2,
    record_pb2,
    search_pb2,
    snapshot_pb2,
)
from grpc import aio

from index_service import collection_converters, converters
from index_service.admission import SearchAdmission
from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.filter_converters import parse_delete_filter, parse_filter
from index_service.metrics import IndexMetrics, Threads
from index_service.optimize_calls import OptimizeCalls
from index_service.page_token import read_page_token
from index_service.search_converters import is_small, search_collection
from index_service.settings import IndexSettings
from index_service.snapshot_calls import SnapshotCalls
from index_service.snapshots import Snapshots
from index_service.tunings import Tunings
from service_runtime.access import current_grant
from service_runtime.cores import usable_cores
from service_runtime.errors import ResourceExhausted, ServiceError

SERVICE_NAME = index_service_pb2.DESCRIPTOR.services_by_name["IndexService"].full_name

_STREAM_WINDOW = 4
"""Batches of one stream held at a time: those being written, and those read meanwhile, which share the next commit."""

Request = TypeVar("Request")
Response = TypeVar("Response")
Context = aio.ServicerContext[Any, Any]


class IndexServicer(index_service_pb2_grpc.IndexServiceServicer):
    """Answers the calls of IndexService."""

    def __init__(self, settings: IndexSettings, metrics: IndexMetrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(settings.request_threads, "request")
        # More small searches at a time than there are cores would only contend for Python's lock.
        searching = settings.search_threads or usable_cores()
        self._small_searches = ThreadPoolExecutor(searching, "small-search")
        self._search_admission = SearchAdmission(searching)
        self._snapshot_calls = SnapshotCalls()
        self._optimize_calls = OptimizeCalls(self._threads)
        self._catalog: Catalog

    def serve(self, catalog: Catalog, snapshots: Snapshots, tunings: Tunings) -> None:
        """Answer from this catalog."""
        self._catalog = catalog
        self._snapshot_calls.serve(snapshots)
        self._optimize_calls.serve(catalog, tunings)

    def close(self) -> None:
        """Wait for the work under way; snapshots are not finished."""
        self._snapshot_calls.close()
        self._small_searches.shutdown()
        self._threads.shutdown()

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, _: Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Make a collection."""
        return await self._work(self._create, request)

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, _: Context
    ) -> collection_pb2.GetCollectionResponse:
        """Describe a collection."""
        collection = self._catalog.get(request.name)
        return collection_pb2.GetCollectionResponse(collection=collection_converters.collection_message(collection))

    async def ListCollections(
        self, _request: collection_pb2.ListCollectionsRequest, _: Context
    ) -> collection_pb2.ListCollectionsResponse:
        """Describe all collections that the caller may know of."""
        known = [collection for collection in self._catalog.by_name() if current_grant().reaches(collection.spec.name)]
        messages = [collection_converters.collection_message(collection) for collection in known]
        return collection_pb2.ListCollectionsResponse(collections=messages)

    async def UpdateCollection(
        self, request: collection_pb2.UpdateCollectionRequest, _: Context
    ) -> collection_pb2.UpdateCollectionResponse:
        """Change how a collection is indexed."""
        return await self._work(self._update_collection, request)

    async def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, _: Context
    ) -> collection_pb2.DeleteCollectionResponse:
        """Remove a collection."""
        await self._work(self._catalog.delete, request.name)
        return collection_pb2.DeleteCollectionResponse()

    async def Upsert(self, request: record_pb2.UpsertRequest, _: Context) -> record_pb2.UpsertResponse:
        """Write records."""
        return await self._work(self._upsert, request)

    async def UpsertStream(
        self, requests: AsyncIterator[record_pb2.UpsertStreamRequest], _: Context
    ) -> AsyncIterator[record_pb2.UpsertStreamResponse]:
        """Write batches in order; what arrives while one commit runs goes into the next."""
        waiting: asyncio.Queue[record_pb2.UpsertStreamRequest | None] = asyncio.Queue(_STREAM_WINDOW)

        async def receive() -> None:
            try:
                async for request in requests:
                    await waiting.put(request)
            except Exception:
                await waiting.put(None)
                raise
            await waiting.put(None)

        receiver = asyncio.create_task(receive())
        try:
            ended = False
            while not ended:
                batches = [await waiting.get()]
                while not waiting.empty():
                    batches.append(waiting.get_nowait())
                ended = batches[-1] is None
                responses, fault = await self._work(self._upsert_batches, [batch for batch in batches if batch])
                for response in responses:
                    yield response
                if fault is not None:
                    raise fault
            await receiver
        finally:
            receiver.cancel()

    async def UpdateRecords(
        self, request: record_pb2.UpdateRecordsRequest, _: Context
    ) -> record_pb2.UpdateRecordsResponse:
        """Change records but for their vectors."""
        return await self._work(self._update, request)

    async def Delete(self, request: record_pb2.DeleteRequest, context: Context) -> record_pb2.DeleteResponse:
        """Remove records."""
        return await self._work(partial(self._delete, deadline=_deadline(context)), request)

    async def GetRecords(self, request: record_pb2.GetRecordsRequest, _: Context) -> bytes:
        """Read records by id; the answer comes as it is sent."""
        return await self._work(self._get_records, request)

    async def ListRecords(self, request: record_pb2.ListRecordsRequest, _: Context) -> record_pb2.ListRecordsResponse:
        """Read a page of records."""
        return await self._work(self._list_records, request)

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> bytes:
        """Find the nearest records; the answer comes as it is sent."""
        search = partial(self._search, deadline=_deadline(context))
        if not is_small(request):
            return await self._work(search, request)
        with self._search_admission.enter(context.time_remaining()):
            return await self._work(partial(self._search_admission.timed, search), request, "small_search")

    async def GetStats(self, request: collection_pb2.GetStatsRequest, _: Context) -> collection_pb2.GetStatsResponse:
        """Say how large a collection is."""
        return await self._work(self._get_stats, request)

    def CreateSnapshot(
        self, request: snapshot_pb2.CreateSnapshotRequest, context: Context
    ) -> AsyncIterator[snapshot_pb2.CreateSnapshotResponse]:
        """Copy a collection to a URL."""
        return self._snapshot_calls.create(request, context)

    def RestoreSnapshot(
        self, request: snapshot_pb2.RestoreSnapshotRequest, context: Context
    ) -> AsyncIterator[snapshot_pb2.RestoreSnapshotResponse]:
        """Make a collection from a snapshot."""
        return self._snapshot_calls.restore(request, context)

    def Optimize(
        self, request: optimize_pb2.OptimizeRequest, context: Context
    ) -> AsyncIterator[optimize_pb2.OptimizeResponse]:
        """Find the fastest index that reaches a recall."""
        return self._optimize_calls.optimize(request, context)

    async def GetTuning(self, request: optimize_pb2.GetTuningRequest, _: Context) -> optimize_pb2.GetTuningResponse:
        """Say what Optimize found last."""
        return self._optimize_calls.get(request)

    async def _work(
        self, function: Callable[[Request], Response], request: Request, threads: Threads = "request"
    ) -> Response:
        """Run in one of these threads, with the request's context."""
        executor = self._small_searches if threads == "small_search" else self._threads
        context = copy_context()
        with self._metrics.queued(threads) as begin:

            def work() -> Response:
                begin()
                return function(request)

            return await asyncio.get_running_loop().run_in_executor(executor, context.run, work)

    def _create(self, request: collection_pb2.CreateCollectionRequest) -> collection_pb2.CreateCollectionResponse:
        self._catalog.refuse_existing(request.name)
        parsed = collection_converters.parse_new_collection(request, self._settings.default_shard_count)
        collection = self._catalog.create(*parsed)
        return collection_pb2.CreateCollectionResponse(collection=collection_converters.collection_message(collection))

    def _update_collection(
        self, request: collection_pb2.UpdateCollectionRequest
    ) -> collection_pb2.UpdateCollectionResponse:
        collection = self._catalog.get(request.name)
        build, effort = collection_converters.parse_index(request.index, collection.spec.space)
        collection.configure(lambda config: config.chosen(build, effort))
        return collection_pb2.UpdateCollectionResponse(collection=collection_converters.collection_message(collection))

    def _upsert(self, request: record_pb2.UpsertRequest) -> record_pb2.UpsertResponse:
        collection = self._catalog.get(request.collection)
        [faults] = collection.upsert([converters.parse_upsert(request, collection.spec.space)])
        return record_pb2.UpsertResponse(statuses=converters.status_messages(faults))

    def _upsert_batches(
        self, requests: Sequence[record_pb2.UpsertStreamRequest]
    ) -> tuple[list[record_pb2.UpsertStreamResponse], ServiceError | None]:
        """Write batches in order up to the first request fault; return the acknowledgements and the fault."""
        parsed: list[tuple[int, Collection, UpsertBatch]] = []
        fault: ServiceError | None = None
        for request in requests:
            try:
                collection = self._catalog.get(request.upsert.collection)
                batch = converters.parse_upsert(request.upsert, collection.spec.space)
            except ServiceError as error:
                fault = error
                break
            parsed.append((request.batch_id, collection, batch))
        responses: list[record_pb2.UpsertStreamResponse] = []
        # Each batch goes to the collection it was checked for, whatever bears that name by now.
        for collection, group in groupby(parsed, key=lambda part: part[1]):
            parts = list(group)
            results = collection.upsert([batch for _, _, batch in parts])
            responses += [
                record_pb2.UpsertStreamResponse(batch_id=batch_id, statuses=converters.status_messages(faults))
                for (batch_id, _, _), faults in zip(parts, results, strict=True)
            ]
        return responses, fault

    def _update(self, request: record_pb2.UpdateRecordsRequest) -> record_pb2.UpdateRecordsResponse:
        collection = self._catalog.get(request.collection)
        faults = collection.update(converters.parse_updates(request))
        return record_pb2.UpdateRecordsResponse(statuses=converters.status_messages(faults))

    def _delete(self, request: record_pb2.DeleteRequest, deadline: float | None) -> record_pb2.DeleteResponse:
        collection = self._catalog.get(request.collection)
        where = parse_delete_filter(request)
        if where is not None:
            return record_pb2.DeleteResponse(deleted_count=collection.delete_matching(where, deadline))
        faults, deleted = collection.delete(converters.parse_ids("ids", request.ids, converters.MAX_WRITE_ITEMS))
        return record_pb2.DeleteResponse(statuses=converters.status_messages(faults), deleted_count=deleted)

    def _get_records(self, request: record_pb2.GetRecordsRequest) -> bytes:
        collection = self._catalog.get(request.collection)
        include = converters.parse_include(request.include)
        ids = converters.parse_ids("ids", request.ids, converters.MAX_READ_ITEMS)
        sound = [own for own in ids if isinstance(own, str)]
        found = collection.read(sound, with_vectors=include.vector)
        response = converters.records_message(ids, request.ids, found, collection.spec.space, include)
        return self._checked(response.SerializeToString())

    def _list_records(self, request: record_pb2.ListRecordsRequest) -> record_pb2.ListRecordsResponse:
        collection = self._catalog.get(request.collection)
        spec = collection.spec
        size = converters.parse_page_size(request.page_size)
        after = read_page_token(spec.name, spec.create_time_ns, request.page_token)
        include = converters.parse_include(request.include)
        most_bytes = self._settings.max_message_bytes // 2
        where = parse_filter("filter", request.filter) if request.HasField("filter") else None
        page = collection.page(after, size, with_vectors=include.vector, most_bytes=most_bytes, where=where)
        return converters.page_message(page, spec, include)

    def _search(self, request: search_pb2.SearchRequest, deadline: float | None) -> bytes:
        collection = self._catalog.get(request.collection)
        response = search_collection(request, collection, self._settings.max_message_bytes, deadline)
        return self._checked(response.SerializeToString())

    def _get_stats(self, request: collection_pb2.GetStatsRequest) -> collection_pb2.GetStatsResponse:
        collection = self._catalog.get(request.collection)
        return collection_converters.stats_message(collection)

    def _checked(self, response: bytes) -> bytes:
        """The response. Raises ResourceExhausted when it is larger than this server sends."""
        size, most = len(response), self._settings.max_message_bytes
        if size > most:
            raise ResourceExhausted(
                f"the answer has {size:,} bytes, but at most {most:,} are sent; ask for less at a time"
            )
        return response


def _deadline(context: Context) -> float | None:
    """When the caller stops waiting, in seconds of ``time.monotonic``."""
    remaining = context.time_remaining()
    return None if remaining is None else time.monotonic() + remaining


def register(servicer: IndexServicer, server: aio.Server) -> None:
    """Add the servicer to a server."""
    # A hundred thousand hits take as long to serialise as to find, and on the event loop every other call would wait
    # for that. So what may be large comes from its thread as bytes.
    handlers = {
        "Search": _already_serialised(servicer.Search, search_pb2.SearchRequest.FromString),
        "GetRecords": _already_serialised(servicer.GetRecords, record_pb2.GetRecordsRequest.FromString),
    }
    # Of generic handlers the first that knows a method counts, of registered ones, which newer releases of grpcio ask
    # before, the last.
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))
    index_service_pb2_grpc.add_IndexServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    server.add_registered_method_handlers(SERVICE_NAME, handlers)


def _already_serialised(
    behaviour: Callable[..., Awaitable[bytes]], parse: Callable[[bytes], Any]
) -> "grpc.RpcMethodHandler[Any, Any]":
    return grpc.unary_unary_rpc_method_handler(behaviour, request_deserializer=parse)
