"""Requests from plain values, plain values from answers.

The only module that touches generated protobuf code. Makes no call and keeps no state; sync and async clients share it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from contextlib import contextmanager
from datetime import UTC
from typing import Any, TypeAlias

import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2 as embedder_pb2
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright.index.v1 import (
    collection_pb2,
    filter_pb2,
    index_service_pb2,
    optimize_pb2,
    record_pb2,
    search_pb2,
    snapshot_pb2,
)
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from eyebright.vectors.numpy_codec import FLOAT16, FLOAT32, VectorBatchError, decode_vectors, encode_vectors
from eyebright.vectors.v1.vectors_pb2 import VectorBatch
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from eyebright_client._calls import Message, Service
from eyebright_client._exceptions import InternalError, InvalidArgument, NotFound
from eyebright_client._filters import (
    AllOf,
    AnyOf,
    Comparison,
    Exists,
    Filter,
    HasPrefix,
    IsIn,
    IsNull,
    Not,
    Operator,
    Value,
)
from eyebright_client._limits import RECORD_BYTES
from eyebright_client._results import (
    Collection,
    CollectionStats,
    Effort,
    Embeddings,
    EmbedTimings,
    Evidence,
    MeasuredPoint,
    Metric,
    Modality,
    ModalityRecall,
    Model,
    Priority,
    RecallEstimate,
    Recipe,
    Record,
    RecordPage,
    SearchResult,
    ServingStatus,
    ShardSnapshot,
    ShardStats,
    Snapshot,
    SnapshotPhase,
    SnapshotProgress,
    TowerName,
    Tuning,
    TuningBasis,
    TuningPhase,
    TuningProgress,
    TuningStatus,
)
from eyebright_client._statuses import read_item_errors

_HEALTH_CHECK = "grpc.health.v1.Health/Check"


def _with_health(stub_class: Any) -> Callable[[Any], Any]:  # noqa: ANN401
    """Makes stubs that know grpc.health.v1.Health/Check too. On the wire its request is a StringValue, its response an
    Int32Value, so that it needs no stub of its own.
    """

    def make(channel: Any) -> Any:  # noqa: ANN401 - sync or async
        stub = stub_class(channel)
        stub.CheckHealth = channel.unary_unary(
            f"/{_HEALTH_CHECK}",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=Int32Value.FromString,
        )
        return stub

    return make


STUBS = {Service.EMBEDDER: _with_health(EmbedderServiceStub), Service.INDEX: _with_health(IndexServiceStub)}
"""Makes the stub of each service from a channel: one callable per method, and CheckHealth."""

_FULL_NAMES = {
    Service.EMBEDDER: embedder_pb2.DESCRIPTOR.services_by_name["EmbedderService"].full_name,
    Service.INDEX: index_service_pb2.DESCRIPTOR.services_by_name["IndexService"].full_name,
}
_SERVING_STATUSES: dict[int, ServingStatus] = {1: "serving", 2: "not_serving"}
_TOWER_NAMES: dict[int, TowerName] = {embedder_pb2.TOWER_TEXT: "text", embedder_pb2.TOWER_IMAGE: "image"}

_METRICS: dict[Metric, collection_pb2.Metric] = {
    "cosine": collection_pb2.METRIC_COSINE,
    "inner_product": collection_pb2.METRIC_INNER_PRODUCT,
    "l2": collection_pb2.METRIC_L2,
}
_METRIC_NAMES = {number: name for name, number in _METRICS.items()}
_PRIORITIES: dict[Priority, embedder_pb2.Priority] = {
    "interactive": embedder_pb2.PRIORITY_INTERACTIVE,
    "bulk": embedder_pb2.PRIORITY_BULK,
}
_MODALITIES: dict[Modality, search_pb2.Modality] = {
    "text": search_pb2.MODALITY_TEXT,
    "image": search_pb2.MODALITY_IMAGE,
    "record": search_pb2.MODALITY_RECORD,
}
_MODALITY_NAMES = {number: name for name, number in _MODALITIES.items()}
_OPERATORS: dict[Operator, filter_pb2.ComparisonOperator] = {
    "==": filter_pb2.COMPARISON_OPERATOR_EQUAL,
    "!=": filter_pb2.COMPARISON_OPERATOR_NOT_EQUAL,
    "<": filter_pb2.COMPARISON_OPERATOR_LESS,
    "<=": filter_pb2.COMPARISON_OPERATOR_LESS_OR_EQUAL,
    ">": filter_pb2.COMPARISON_OPERATOR_GREATER,
    ">=": filter_pb2.COMPARISON_OPERATOR_GREATER_OR_EQUAL,
}
_PHASES: dict[int, SnapshotPhase] = {
    snapshot_pb2.SNAPSHOT_PHASE_WAITING: "waiting",
    snapshot_pb2.SNAPSHOT_PHASE_COPYING: "copying",
    snapshot_pb2.SNAPSHOT_PHASE_TRANSFERRING: "transferring",
    snapshot_pb2.SNAPSHOT_PHASE_OPENING: "opening",
    snapshot_pb2.SNAPSHOT_PHASE_DONE: "done",
}
_RECIPES: dict[Recipe, collection_pb2.Recipe] = {
    "auto": collection_pb2.RECIPE_AUTO,
    "exact": collection_pb2.RECIPE_EXACT,
    "fastscan": collection_pb2.RECIPE_FASTSCAN,
    "ivf-fastscan": collection_pb2.RECIPE_IVF_FASTSCAN,
    "hnsw": collection_pb2.RECIPE_HNSW,
    "ivf-flat": collection_pb2.RECIPE_IVF_FLAT,
    "lsh": collection_pb2.RECIPE_LSH,
}
_RECIPE_NAMES = {number: name for name, number in _RECIPES.items()}
_TUNING_PHASES: dict[int, TuningPhase] = {
    optimize_pb2.OPTIMIZE_PHASE_WAITING: "waiting",
    optimize_pb2.OPTIMIZE_PHASE_SETTLING: "settling",
    optimize_pb2.OPTIMIZE_PHASE_ANSWERING: "answering",
    optimize_pb2.OPTIMIZE_PHASE_MEASURING: "measuring",
    optimize_pb2.OPTIMIZE_PHASE_REBUILDING: "rebuilding",
    optimize_pb2.OPTIMIZE_PHASE_DONE: "done",
}
_TUNING_BASES: dict[int, TuningBasis] = {
    optimize_pb2.OPTIMIZE_BASIS_MEASURED: "measured",
    optimize_pb2.OPTIMIZE_BASIS_FEW_QUERIES: "few_queries",
    optimize_pb2.OPTIMIZE_BASIS_EXACT: "exact",
}
_INCLUDES = ("caption", "source_uri", "metadata", "vector")


def full_method(service: Service, method: str) -> str:
    """A method's name on the wire, as in ``eyebright.index.v1.IndexService/Search``."""
    return _HEALTH_CHECK if method == "CheckHealth" else f"{_FULL_NAMES[service]}/{method}"


@contextmanager
def _building(what: str, position: int | None = None) -> Iterator[None]:
    """Turn protobuf's complaints about a Python value into InvalidArgument."""
    try:
        yield
    except RecursionError as error:
        raise InvalidArgument(f"{what}: nested too deep", field=what, position=position) from error
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{what}: {error}", field=what, position=position) from error


# Health


def health_request(service: Service) -> StringValue:
    """CheckHealth."""
    return StringValue(value=_FULL_NAMES[service])


def read_health(response: Int32Value) -> ServingStatus:
    """What a service says of itself."""
    return _SERVING_STATUSES.get(response.value, "unknown")


# Embedder


def get_model_request() -> embedder_pb2.GetModelRequest:
    """GetModel."""
    return embedder_pb2.GetModelRequest()


def read_model(response: embedder_pb2.GetModelResponse) -> Model:
    """The model served."""
    model = response.model
    stated = {name: getattr(model, name) for name in Model.__slots__}
    towers = tuple(_TOWER_NAMES[tower] for tower in model.towers if tower in _TOWER_NAMES)
    return Model(**stated | {"towers": towers or tuple(_TOWER_NAMES.values())})


def embed_request(
    modality: Modality, items: Sequence[bytes], priority: Priority, recompute: bool = False
) -> embedder_pb2.EmbedTextsRequest | embedder_pb2.EmbedImagesRequest:
    """EmbedTexts, of captions in UTF-8, or EmbedImages, which nothing remembers; the vectors come back as float32."""
    number = _PRIORITIES[priority]
    if modality == "text":
        texts = [item.decode() for item in items]
        return embedder_pb2.EmbedTextsRequest(texts=texts, element_type=FLOAT32, priority=number, recompute=recompute)
    return embedder_pb2.EmbedImagesRequest(images=items, element_type=FLOAT32, priority=number)


def embed_pixels_request(pixels: np.ndarray, priority: Priority) -> embedder_pb2.EmbedImagesRequest:
    """EmbedImages of pictures (n, size, size, 3) uint8 that are decoded already."""
    batch = embedder_pb2.PixelBatch(count=len(pixels), size=pixels.shape[1], data=pixels.tobytes())
    return embedder_pb2.EmbedImagesRequest(pixels=batch, element_type=FLOAT32, priority=_PRIORITIES[priority])


def embed_stream_request(batch_id: int, images: Sequence[bytes]) -> embedder_pb2.EmbedStreamRequest:
    """One batch of images for EmbedStream, to come back as float16: the precision the index keeps."""
    request = embedder_pb2.EmbedImagesRequest(images=images, element_type=FLOAT16, priority=_PRIORITIES["bulk"])
    return embedder_pb2.EmbedStreamRequest(batch_id=batch_id, images=request)


def read_embeddings(response: Message, modality: Modality, request_id: str) -> Embeddings:
    """The answer to EmbedTexts or EmbedImages; positions count from 0 within it."""
    timings = response.timings
    return Embeddings(
        vectors=_read_vectors(response.vectors),
        fingerprint=response.vectors.fingerprint,
        modality=modality,
        truncated=frozenset(response.truncated) if modality == "text" else frozenset(),
        errors=read_item_errors(response.statuses, range(len(response.statuses)), request_id),
        timings=EmbedTimings(timings.decode_seconds, timings.queue_seconds, timings.forward_seconds),
    )


def _read_vectors(batch: VectorBatch) -> np.ndarray:
    try:
        return decode_vectors(batch).astype(np.float32)
    except VectorBatchError as error:
        raise InternalError(f"the service sent a malformed answer: {error}") from error


# Collections


def create_collection_request(
    name: str, dimension: int, fingerprint: str, metric: Metric, shard_count: int | None
) -> collection_pb2.CreateCollectionRequest:
    """CreateCollection. Raises InvalidArgument for a metric that does not exist."""
    if metric not in _METRICS:
        raise InvalidArgument(f"metric: expected one of {', '.join(_METRICS)}, not {metric!r}", field="metric")
    with _building("collection"):
        return collection_pb2.CreateCollectionRequest(
            name=name, dimension=dimension, fingerprint=fingerprint, metric=_METRICS[metric], shard_count=shard_count
        )


def get_collection_request(name: str) -> collection_pb2.GetCollectionRequest:
    """GetCollection."""
    with _building("name"):
        return collection_pb2.GetCollectionRequest(name=name)


def list_collections_request() -> collection_pb2.ListCollectionsRequest:
    """ListCollections."""
    return collection_pb2.ListCollectionsRequest()


def set_index_request(name: str, recipe: Recipe, centred: bool) -> collection_pb2.UpdateCollectionRequest:
    """UpdateCollection. Raises InvalidArgument for an unknown recipe."""
    if recipe not in _RECIPES:
        raise InvalidArgument(f"recipe: expected one of {', '.join(_RECIPES)}, not {recipe!r}", field="recipe")
    with _building("index"):
        index = collection_pb2.IndexConfig(recipe=_RECIPES[recipe], centred=centred)
        return collection_pb2.UpdateCollectionRequest(name=name, index=index)


def delete_collection_request(name: str) -> collection_pb2.DeleteCollectionRequest:
    """DeleteCollection."""
    with _building("name"):
        return collection_pb2.DeleteCollectionRequest(name=name)


def get_stats_request(collection: str) -> collection_pb2.GetStatsRequest:
    """GetStats."""
    with _building("collection"):
        return collection_pb2.GetStatsRequest(collection=collection)


def read_collection(collection: collection_pb2.Collection) -> Collection:
    """A collection."""
    return Collection(
        name=collection.name,
        dimension=collection.dimension,
        fingerprint=collection.fingerprint,
        metric=_METRIC_NAMES[collection.metric],
        shard_count=collection.shard_count,
        create_time=collection.create_time.ToDatetime(tzinfo=UTC),
    )


def read_stats(response: collection_pb2.GetStatsResponse) -> CollectionStats:
    """The statistics of a collection."""
    return CollectionStats(
        collection=read_collection(response.collection),
        record_count=response.record_count,
        shards=tuple(
            ShardStats(**{name: getattr(shard, name) for name in ShardStats.__slots__}) for shard in response.shards
        ),
        recall=tuple(_read_recall(estimate) for estimate in response.recall if estimate.modality in _MODALITY_NAMES),
    )


def _read_recall(estimate: collection_pb2.RecallEstimate) -> RecallEstimate:
    return RecallEstimate(
        modality=_MODALITY_NAMES[estimate.modality],
        recipe=estimate.recipe,
        mean=estimate.mean,
        lower=estimate.lower,
        upper=estimate.upper,
        sample_count=estimate.sample_count,
        since=estimate.since.ToDatetime(tzinfo=UTC),
    )


# Snapshots


def create_snapshot_request(collection: str, url: str) -> snapshot_pb2.CreateSnapshotRequest:
    """CreateSnapshot."""
    with _building("url"):
        return snapshot_pb2.CreateSnapshotRequest(collection=collection, url=url)


def restore_snapshot_request(
    url: str, collection: str | None, expected_fingerprint: str | None
) -> snapshot_pb2.RestoreSnapshotRequest:
    """RestoreSnapshot."""
    with _building("url"):
        return snapshot_pb2.RestoreSnapshotRequest(
            url=url, collection=collection or "", expected_fingerprint=expected_fingerprint or ""
        )


def read_snapshot_progress(progress: snapshot_pb2.SnapshotProgress) -> SnapshotProgress:
    """How far the server is; a phase that this client does not know counts as "waiting"."""
    return SnapshotProgress(_PHASES.get(progress.phase, "waiting"), progress.bytes_done, progress.bytes_total)


def read_snapshot(snapshot: snapshot_pb2.Snapshot) -> Snapshot:
    """A snapshot."""
    return Snapshot(
        url=snapshot.url,
        collection=snapshot.collection,
        fingerprint=snapshot.fingerprint,
        dimension=snapshot.dimension,
        metric=_METRIC_NAMES[snapshot.metric],
        shard_count=snapshot.shard_count,
        record_count=snapshot.record_count,
        shards=tuple(ShardSnapshot(shard.applied_sequence, shard.record_count) for shard in snapshot.shards),
        bytes=snapshot.bytes,
        create_time=snapshot.create_time.ToDatetime(tzinfo=UTC),
    )


# Tuning


QuerySet: TypeAlias = tuple[np.ndarray, str, Modality]
"""Vectors (n, dimension), the fingerprint of their space, and what they were made of."""


def optimize_request(
    collection: str,
    target_recall: float,
    k: int,
    memory_limit_bytes: int | None,
    queries: Sequence[QuerySet],
    recipes: Sequence[Recipe],
) -> optimize_pb2.OptimizeRequest:
    """Optimize. Raises InvalidArgument for a recipe that does not exist, and for numbers that can't be sent."""
    unknown = [recipes] if isinstance(recipes, str) else [name for name in recipes if name not in _RECIPES]
    if unknown:
        raise InvalidArgument(f"recipes: expected any of {', '.join(_RECIPES)}, not {unknown[0]!r}", field="recipes")
    with _building("optimize"):
        return optimize_pb2.OptimizeRequest(
            collection=collection,
            target_recall=target_recall,
            k=k,
            memory_limit_bytes=memory_limit_bytes,
            queries=[
                optimize_pb2.QuerySet(vectors=encode_vectors(vectors, fingerprint), modality=_MODALITIES[modality])
                for vectors, fingerprint, modality in queries
            ],
            recipes=[_RECIPES[name] for name in recipes],
        )


def get_tuning_request(collection: str) -> optimize_pb2.GetTuningRequest:
    """GetTuning."""
    with _building("collection"):
        return optimize_pb2.GetTuningRequest(collection=collection)


def read_tuning_progress(progress: optimize_pb2.OptimizeProgress) -> TuningProgress:
    """How far the server is; a phase that this client does not know counts as "waiting"."""
    return TuningProgress(
        phase=_TUNING_PHASES.get(progress.phase, "waiting"),
        steps_done=progress.steps_done,
        steps_total=progress.steps_total,
        recipe=_RECIPE_NAMES.get(progress.recipe),
        centred=progress.centred,
    )


def read_tuning(result: optimize_pb2.OptimizeResult) -> Tuning:
    """What a tuning found; a basis that this client does not know counts as "measured"."""
    return Tuning(
        basis=_TUNING_BASES.get(result.basis, "measured"),
        chosen=_read_point(result.chosen),
        front=tuple(_read_point(point) for point in result.front),
        target_met=result.target_met,
        target_recall=result.target_recall,
        k=result.k,
        memory_limit_bytes=result.memory_limit_bytes if result.HasField("memory_limit_bytes") else None,
        time=result.time.ToDatetime(tzinfo=UTC),
    )


def read_tuning_status(response: optimize_pb2.GetTuningResponse) -> TuningStatus:
    """What was found last, and what is under way."""
    return TuningStatus(
        last=read_tuning(response.last) if response.HasField("last") else None,
        under_way=read_tuning_progress(response.under_way) if response.HasField("under_way") else None,
    )


def _read_point(point: optimize_pb2.MeasuredPoint) -> MeasuredPoint:
    effort = point.effort
    return MeasuredPoint(
        recipe=_RECIPE_NAMES.get(point.recipe, "auto"),
        centred=point.centred,
        effort=Effort(effort.k_factor, effort.probed_share, effort.ef_search),
        recall=tuple(
            ModalityRecall(_MODALITY_NAMES[one.modality], one.mean, one.lower, one.upper, one.query_count)
            for one in point.recall
            if one.modality in _MODALITY_NAMES
        ),
        latency_seconds=point.latency_seconds if point.HasField("latency_seconds") else None,
        index_bytes=point.index_bytes if point.HasField("index_bytes") else None,
    )


# Records


def record_message(
    position: int,
    id: str,  # noqa: A002
    caption: str | None,
    source_uri: str | None,
    metadata: Mapping[str, Any] | None,
) -> record_pb2.Record:
    """A record to write. Raises InvalidArgument with the position for values that no record can hold."""
    if not isinstance(id, str):
        raise InvalidArgument(f"id: expected text, not {type(id).__name__}", field="id", position=position)
    encoded = None if metadata is None else _metadata_json(metadata, position)
    with _building("record", position):
        record = record_pb2.Record(id=id, caption=caption, source_uri=source_uri, metadata_json=encoded)
    if record.ByteSize() > RECORD_BYTES:
        raise InvalidArgument(
            f"expected at most {RECORD_BYTES} bytes of id, caption, source_uri and metadata, not {record.ByteSize()}",
            field="record",
            position=position,
        )
    return record


def _metadata_json(metadata: Mapping[str, Any], position: int | None = None) -> bytes:
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(
            f"metadata: expected a mapping, not {type(metadata).__name__}", field="metadata", position=position
        )
    with _building("metadata", position):
        return json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def record_bytes(record: record_pb2.Record) -> int:
    """Size of a record on the wire, without its vector."""
    return record.ByteSize()


def upsert_request(
    collection: str, records: Sequence[record_pb2.Record], vectors: np.ndarray, fingerprint: str
) -> record_pb2.UpsertRequest:
    """Upsert of records with (n, dimension) vectors, sent as float16 if they are, else as float32."""
    element_type = FLOAT16 if vectors.dtype == np.float16 else FLOAT32
    with _building("upsert"):
        return record_pb2.UpsertRequest(
            collection=collection, records=records, vectors=encode_vectors(vectors, fingerprint, element_type)
        )


def upsert_embedded(
    batch_id: int, collection: str, records: Sequence[record_pb2.Record], response: embedder_pb2.EmbedImagesResponse
) -> record_pb2.UpsertStreamRequest | None:
    """The batch of UpsertStream that follows from an embedded one: the records whose image has a vector, with the
    embedder's own bytes; None when there is none.
    """
    good = [row for row, status in enumerate(response.statuses) if status.code == 0]
    if not good:
        return None
    vectors = response.vectors
    if len(good) < len(records):
        vectors = encode_vectors(decode_vectors(vectors)[good], vectors.fingerprint, vectors.element_type)
    upsert = record_pb2.UpsertRequest(collection=collection, records=[records[row] for row in good], vectors=vectors)
    return record_pb2.UpsertStreamRequest(batch_id=batch_id, upsert=upsert)


def delete_request(collection: str, ids: Sequence[str]) -> record_pb2.DeleteRequest:
    """Delete."""
    with _building("ids"):
        return record_pb2.DeleteRequest(collection=collection, ids=ids)


def delete_matching_request(collection: str, where: Filter) -> record_pb2.DeleteRequest:
    """Delete of what a filter lets through."""
    with _building("filter"):
        return record_pb2.DeleteRequest(collection=collection, filter=filter_message(where))


def update_request(
    collection: str,
    id: str,  # noqa: A002
    caption: str | None,
    source_uri: str | None,
    metadata: Mapping[str, Any] | None,
) -> record_pb2.UpdateRecordsRequest:
    """UpdateRecords of one record; None leaves a field as it is, an empty value removes it."""
    encoded = None if metadata is None else _metadata_json(metadata) if metadata else b""
    with _building("update"):
        update = record_pb2.RecordUpdate(id=id, caption=caption, source_uri=source_uri, metadata_json=encoded)
        return record_pb2.UpdateRecordsRequest(collection=collection, updates=[update])


def get_records_request(
    collection: str, ids: Sequence[str], include: AnyCollection[str]
) -> record_pb2.GetRecordsRequest:
    """GetRecords."""
    with _building("ids"):
        return record_pb2.GetRecordsRequest(collection=collection, ids=ids, include=_include(include))


def list_records_request(
    collection: str, page_size: int, page_token: str, where: Filter | None, include: AnyCollection[str]
) -> record_pb2.ListRecordsRequest:
    """ListRecords."""
    with _building("page_size"):
        return record_pb2.ListRecordsRequest(
            collection=collection,
            page_size=page_size,
            page_token=page_token,
            filter=None if where is None else filter_message(where),
            include=_include(include),
        )


def read_records(response: record_pb2.GetRecordsResponse) -> tuple[Record, ...]:
    """One per id; empty but for the id where its status is not OK."""
    return _read_records(response.records, response.vectors)


def read_found(
    response: record_pb2.GetRecordsResponse, positions: Sequence[int], request_id: str
) -> list[Record | None]:
    """One per id: its record, or None where there is none. Raises the error of an id that can't be one."""
    errors = read_item_errors(response.statuses, positions, request_id)
    for error in errors.values():
        if not isinstance(error, NotFound):
            raise error
    records = read_records(response)
    return [None if position in errors else record for record, position in zip(records, positions, strict=True)]


def read_page(response: record_pb2.ListRecordsResponse) -> RecordPage:
    """One page of records."""
    return RecordPage(_read_records(response.records, response.vectors), response.next_page_token)


def _include(names: AnyCollection[str]) -> record_pb2.Include:
    unknown = sorted(set(names) - set(_INCLUDES)) if not isinstance(names, str) else [names]
    if unknown:
        raise InvalidArgument(f"include: expected any of {_INCLUDES}, not {unknown}", field="include")
    return record_pb2.Include(**dict.fromkeys(names, True))


def _read_records(records: Sequence[record_pb2.Record], batch: VectorBatch) -> tuple[Record, ...]:
    vectors = _read_vectors(batch) if batch.count else [None] * len(records)
    return tuple(
        Record(
            id=record.id,
            caption=record.caption if record.HasField("caption") else None,
            source_uri=record.source_uri if record.HasField("source_uri") else None,
            metadata=json.loads(record.metadata_json) if record.metadata_json else None,
            vector=vector,
        )
        for record, vector in zip(records, vectors, strict=True)
    )


# Filters


def filter_message(where: Filter) -> filter_pb2.Filter:
    """A filter."""
    match where:
        case AllOf(filters):
            return filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=map(filter_message, filters)))
        case AnyOf(filters):
            return filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=map(filter_message, filters)))
        case Not(negated):
            return filter_pb2.Filter(negation=filter_message(negated))
        case Comparison(keys, operator, value):
            comparison = filter_pb2.Comparison(
                field=_filter_field(keys), operator=_OPERATORS[operator], value=_filter_value(value)
            )
            return filter_pb2.Filter(comparison=comparison)
        case IsIn(keys, values):
            is_in = filter_pb2.IsIn(field=_filter_field(keys), values=map(_filter_value, values))
            return filter_pb2.Filter(is_in=is_in)
        case Exists(keys):
            return filter_pb2.Filter(exists=filter_pb2.Exists(field=_filter_field(keys)))
        case IsNull(keys):
            return filter_pb2.Filter(is_null=filter_pb2.IsNull(field=_filter_field(keys)))
        case HasPrefix(keys, prefix):
            return filter_pb2.Filter(has_prefix=filter_pb2.HasPrefix(field=_filter_field(keys), prefix=prefix))
    raise InvalidArgument(f"filter: expected what F makes, not {where!r}", field="filter")


def _filter_field(keys: Sequence[str]) -> filter_pb2.FilterField:
    if not keys:
        return filter_pb2.FilterField(caption=filter_pb2.CaptionPlace())
    return filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=keys))


def _filter_value(value: Value) -> filter_pb2.FilterValue:
    match value:
        case bool():
            return filter_pb2.FilterValue(bool_value=value)
        case str():
            return filter_pb2.FilterValue(string_value=value)
        case int():
            return filter_pb2.FilterValue(integer_value=value)
    return filter_pb2.FilterValue(double_value=value)


# Search


def search_request(
    collection: str,
    queries: np.ndarray | Sequence[str],
    fingerprint: str,
    modality: Modality,
    *,
    k: int,
    filter: Filter | None,  # noqa: A002
    offset: int,
    min_score: float | None,
    exact: bool,
    target_recall: float | None,
    include: AnyCollection[str],
) -> search_pb2.SearchRequest:
    """Search by (n, dimension) vectors, or by record ids. Raises InvalidArgument for numbers that can't be sent."""
    for field, number in (("k", k), ("offset", offset)):
        if isinstance(number, bool) or not (isinstance(number, int | np.integer) and 0 <= number < 2**32):
            raise InvalidArgument(f"{field}: expected a whole number of at least 0, not {number!r}", field=field)
    with _building("search"):
        request = search_pb2.SearchRequest(
            collection=collection,
            modality=_MODALITIES[modality],
            k=k,
            filter=None if filter is None else filter_message(filter),
            offset=offset,
            min_score=min_score,
            exact=exact,
            target_recall=target_recall,
            include=_include(include),
        )
        if isinstance(queries, np.ndarray):
            request.vectors.CopyFrom(encode_vectors(queries, fingerprint))
        else:
            request.records.ids.extend(queries)
    return request


def read_search(response: search_pb2.SearchResponse, positions: Sequence[int], request_id: str) -> list[SearchResult]:
    """One result per query, without probabilities and with no stage times."""
    found = response.evidence
    evidence = Evidence(
        exact=found.exact,
        recipe=found.recipe,
        shards_asked=found.shards_asked,
        shards_answered=found.shards_answered,
        rows_scanned=found.rows_scanned,
        estimated_recall=found.estimated_recall if found.HasField("estimated_recall") else None,
    )
    errors = read_item_errors([result.status for result in response.results], positions, request_id)
    return [
        SearchResult(error=errors[position])
        if position in errors
        else SearchResult(
            ids=tuple(result.ids),
            scores=np.array(result.scores, dtype=np.float32),
            records=_read_records(result.records, VectorBatch()) if result.records else None,
            vectors=_read_vectors(result.vectors) if result.vectors.count else None,
            evidence=evidence,
        )
        for result, position in zip(response.results, positions, strict=True)
    ]


def read_search_seconds(response: search_pb2.SearchResponse) -> tuple[float, float]:
    """Seconds of the slowest shard, and of merging."""
    return response.evidence.shard_search_seconds, response.evidence.merge_seconds
