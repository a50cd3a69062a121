"""Protobuf <-> domain for collections: what a request says of one, checked, and how answers describe it.

Owns the limits that collection.proto states of a request's form.
"""

from eyebright.index.v1 import collection_pb2, search_pb2
from eyebright.vectors.numpy_codec import MAX_DIMENSION
from google.protobuf.timestamp_pb2 import Timestamp

from index_service.catalog import is_collection_name
from index_service.collection import Collection
from index_service.converters import check_range
from index_service.index_config import IndexConfig, Modality
from index_service.recall_estimates import RecallEstimate
from index_service.recipes import CENTRED_RECIPES, Build, Effort, Recipe
from index_service.vector_space import Metric, VectorSpace
from service_runtime.errors import InvalidArgument

MAX_SHARDS = 256
MAX_K_FACTOR = 100_000
MAX_EF_SEARCH = 100_000

_FINGERPRINT_DIGITS = frozenset("0123456789abcdef")
_METRICS = {
    collection_pb2.METRIC_UNSPECIFIED: Metric.COSINE,
    collection_pb2.METRIC_COSINE: Metric.COSINE,
    collection_pb2.METRIC_INNER_PRODUCT: Metric.INNER_PRODUCT,
    collection_pb2.METRIC_L2: Metric.L2,
}
METRIC_NUMBERS = {metric: number for number, metric in _METRICS.items() if number}
RECIPES = {
    collection_pb2.RECIPE_EXACT: Recipe.EXACT,
    collection_pb2.RECIPE_FASTSCAN: Recipe.FASTSCAN,
    collection_pb2.RECIPE_IVF_FASTSCAN: Recipe.IVF_FASTSCAN,
    collection_pb2.RECIPE_HNSW: Recipe.HNSW,
    collection_pb2.RECIPE_IVF_FLAT: Recipe.IVF_FLAT,
    collection_pb2.RECIPE_LSH: Recipe.LSH,
}
MODALITY_NUMBERS = {
    Modality.TEXT: search_pb2.MODALITY_TEXT,
    Modality.IMAGE: search_pb2.MODALITY_IMAGE,
    Modality.RECORD: search_pb2.MODALITY_RECORD,
}
RECIPE_NUMBERS = {recipe: number for number, recipe in RECIPES.items()}


def check_collection_name(field: str, name: str) -> None:
    """Raise InvalidArgument unless a collection may be called this."""
    if not is_collection_name(name):
        raise InvalidArgument(
            'expected 1 to 64 characters from a-z, 0-9, "-" and "_", beginning with a letter or digit, '
            f"not {name[:80]!r}",
            field=field,
        )


def check_fingerprint(field: str, fingerprint: str) -> None:
    """Raise InvalidArgument unless it has the form of a fingerprint."""
    if len(fingerprint) != 64 or not _FINGERPRINT_DIGITS.issuperset(fingerprint):
        raise InvalidArgument(f"expected 64 lower-case hexadecimal digits, not {fingerprint[:80]!r}", field=field)


def parse_new_collection(
    request: collection_pb2.CreateCollectionRequest, default_shard_count: int
) -> tuple[str, VectorSpace, int, IndexConfig]:
    """Name, space, shard count and index of the collection to make."""
    check_collection_name("name", request.name)
    check_range("dimension", request.dimension, 1, MAX_DIMENSION)
    check_fingerprint("fingerprint", request.fingerprint)
    metric = _METRICS.get(request.metric)
    if metric is None:
        raise InvalidArgument(f"expected COSINE (1), INNER_PRODUCT (2) or L2 (3), not {request.metric}", field="metric")
    check_range("shard_count", request.shard_count, 0, MAX_SHARDS)
    space = VectorSpace(request.dimension, request.fingerprint, metric)
    config = IndexConfig(*parse_index(request.index, space)) if request.HasField("index") else IndexConfig()
    return request.name, space, request.shard_count or default_shard_count, config


def parse_index(index: collection_pb2.IndexConfig, space: VectorSpace) -> tuple[Build | None, Effort | None]:
    """The owner's choice of an index and of the effort of its searches; None where the service chooses."""
    effort = _parse_effort(index.effort) if index.HasField("effort") else None
    if index.recipe == collection_pb2.RECIPE_AUTO:
        _refuse_centring(index, "AUTO")
        return None, effort
    recipe = RECIPES.get(index.recipe)
    if recipe is None:
        raise InvalidArgument(f"expected a recipe from AUTO (1) to LSH (7), not {index.recipe}", field="index.recipe")
    if recipe not in CENTRED_RECIPES:
        _refuse_centring(index, recipe.name)
    if space.metric is Metric.L2:
        _refuse_centring(index, "metric L2")
    if recipe is Recipe.LSH and space.metric is Metric.INNER_PRODUCT:
        raise InvalidArgument("expected metric COSINE or L2 for LSH, not INNER_PRODUCT", field="index.recipe")
    return Build(recipe, index.centred), effort


def _refuse_centring(index: collection_pb2.IndexConfig, what: str) -> None:
    if index.centred:
        raise InvalidArgument(f"expected false for {what}, not true", field="index.centred")


def _parse_effort(effort: collection_pb2.Effort) -> Effort:
    default = Effort()
    chosen = Effort(
        effort.k_factor or default.k_factor,
        effort.probed_share or default.probed_share,
        effort.ef_search or default.ef_search,
    )
    if not 1.0 <= chosen.k_factor <= MAX_K_FACTOR:
        raise InvalidArgument(f"expected 1 to {MAX_K_FACTOR:,}, not {effort.k_factor:g}", field="index.effort.k_factor")
    if not 0.0 < chosen.probed_share <= 1.0:
        raise InvalidArgument(
            f"expected above 0 and at most 1, not {effort.probed_share:g}", field="index.effort.probed_share"
        )
    check_range("index.effort.ef_search", chosen.ef_search, 1, MAX_EF_SEARCH)
    return chosen


def collection_message(collection: Collection) -> collection_pb2.Collection:
    """A collection, as answers state it."""
    spec = collection.spec
    created = Timestamp()
    created.FromNanoseconds(spec.create_time_ns)
    return collection_pb2.Collection(
        name=spec.name,
        dimension=spec.space.dimension,
        fingerprint=spec.space.fingerprint,
        metric=METRIC_NUMBERS[spec.space.metric],
        shard_count=spec.shard_count,
        create_time=created,
        index=_index_message(collection.config),
    )


def _index_message(config: IndexConfig) -> collection_pb2.IndexConfig:
    build, effort = config.build, config.effort
    return collection_pb2.IndexConfig(
        recipe=collection_pb2.RECIPE_AUTO if build is None else RECIPE_NUMBERS[build.recipe],
        centred=build is not None and build.centred,
        effort=None if effort is None else effort_message(effort),
    )


def effort_message(effort: Effort) -> collection_pb2.Effort:
    """An effort, as answers state it."""
    return collection_pb2.Effort(k_factor=effort.k_factor, probed_share=effort.probed_share, ef_search=effort.ef_search)


def stats_message(collection: Collection) -> collection_pb2.GetStatsResponse:
    """The size of a collection."""
    shards = collection.stats()
    return collection_pb2.GetStatsResponse(
        collection=collection_message(collection),
        record_count=sum(shard.record_count for shard in shards),
        shards=[
            collection_pb2.ShardStats(
                record_count=shard.record_count,
                tombstone_count=shard.tombstone_count,
                disk_bytes=shard.disk_bytes,
                vector_bytes=shard.vector_bytes,
                applied_sequence=shard.applied_sequence,
                segment_count=shard.segment_count,
                memtable_rows=shard.memtable_rows,
            )
            for shard in shards
        ],
        recall=[_recall_message(estimate) for estimate in collection.recall.all()],
    )


def _recall_message(estimate: RecallEstimate) -> collection_pb2.RecallEstimate:
    since = Timestamp()
    since.FromNanoseconds(estimate.since_ns)
    return collection_pb2.RecallEstimate(
        modality=MODALITY_NUMBERS[estimate.modality],
        recipe=estimate.recipe.value,
        mean=estimate.mean,
        lower=estimate.lower,
        upper=estimate.upper,
        sample_count=estimate.sample_count,
        since=since,
    )
