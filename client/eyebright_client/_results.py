"""What the client answers: frozen values, free of protobuf.

Owns the result types. Knows no message and makes no call.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from eyebright_client._exceptions import CallError

Metric: TypeAlias = Literal["cosine", "inner_product", "l2"]
Modality: TypeAlias = Literal["text", "image", "record"]
TowerName: TypeAlias = Literal["text", "image"]
ServiceName: TypeAlias = Literal["embedder", "index"]
ServingStatus: TypeAlias = Literal["serving", "not_serving", "unknown"]
Priority: TypeAlias = Literal["interactive", "bulk"]
SnapshotPhase: TypeAlias = Literal["waiting", "copying", "transferring", "opening", "done"]
TuningPhase: TypeAlias = Literal["waiting", "settling", "answering", "measuring", "rebuilding", "done"]
TuningBasis: TypeAlias = Literal["measured", "few_queries", "exact"]
Recipe: TypeAlias = Literal["auto", "exact", "fastscan", "ivf-fastscan", "hnsw", "ivf-flat", "lsh"]
IncludeField: TypeAlias = Literal["caption", "source_uri", "metadata", "vector"]


@dataclass(frozen=True, slots=True)
class Model:
    """The checkpoint that the embedder serves, and the limits of its requests."""

    name: str
    fingerprint: str
    dimension: int
    image_size: int
    text_length: int
    logit_scale: float
    logit_bias: float
    max_items: int
    max_image_bytes: int
    max_image_pixels: int
    max_text_bytes: int
    towers: tuple[TowerName, ...] = ("text", "image")
    """What can be embedded; both where the embedder is too old to say."""
    precision: str = ""
    """What the towers compute in: "fp32", "bf16", "fp16" or "int8"; empty where the embedder is too old to say."""
    revision: str = ""
    """Commit of a checkpoint that came from the hub; empty for any other."""
    accepts_pixels: bool = False
    """Whether the embedder takes pictures that are decoded already."""

    def probability(self, cosine: np.ndarray | float) -> np.ndarray:
        """Probability that a caption and an image with this cosine match, in the shape of ``cosine``.

        sigmoid(exp(logit_scale) * cosine + logit_bias), the training objective of SigLIP (arXiv 2303.15343).
        """
        logit = np.exp(self.logit_scale) * np.asarray(cosine, dtype=np.float64) + self.logit_bias
        return np.asarray(np.exp(-np.logaddexp(0.0, -logit)))


@dataclass(frozen=True, slots=True)
class EmbedTimings:
    """Seconds that the embedder spent, by stage; summed over the requests that were needed."""

    decode_seconds: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0

    def __add__(self, other: "EmbedTimings") -> "EmbedTimings":
        return EmbedTimings(
            self.decode_seconds + other.decode_seconds,
            self.queue_seconds + other.queue_seconds,
            self.forward_seconds + other.forward_seconds,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """One vector of length 1, float32 (dimension,), with the fingerprint of its space and what it was made of."""

    vector: np.ndarray
    fingerprint: str
    modality: Modality
    truncated: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings(Sequence[Embedding]):
    """Vectors of many captions or images, in their order.

    ``vectors``: float32 (n, dimension), each row of length 1; the row of an item that failed is zeros. ``truncated``:
    positions of captions that were cut at the model's text length. ``errors``: position -> why there is no vector.
    Indexing gives one Embedding, and raises the error of an item that failed.
    """

    vectors: np.ndarray
    fingerprint: str
    modality: Modality
    truncated: frozenset[int] = frozenset()
    errors: Mapping[int, CallError] = field(default_factory=dict)
    timings: EmbedTimings = field(default_factory=EmbedTimings)

    def __len__(self) -> int:
        return len(self.vectors)

    @overload
    def __getitem__(self, position: int) -> Embedding: ...
    @overload
    def __getitem__(self, position: slice) -> list[Embedding]: ...
    def __getitem__(self, position: int | slice) -> Embedding | list[Embedding]:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        found = range(len(self))[position]
        if found in self.errors:
            raise self.errors[found]
        return Embedding(self.vectors[found], self.fingerprint, self.modality, found in self.truncated)


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of records in one vector space. ``create_time`` is in UTC."""

    name: str
    dimension: int
    fingerprint: str
    metric: Metric
    shard_count: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class ShardStats:
    """The state of one shard."""

    record_count: int
    tombstone_count: int
    disk_bytes: int
    vector_bytes: int
    applied_sequence: int
    segment_count: int
    memtable_rows: int


@dataclass(frozen=True, slots=True)
class RecallEstimate:
    """How much of the exact answers the approximate ones hold, from live queries that were answered again exactly.

    ``mean``: share of the exact best min(k, 100) hits that the answers held, 0 to 1, for queries of this modality that
    this recipe answered; it lies between ``lower`` and ``upper`` with 95 % confidence or more. ``sample_count``: the
    queries it rests on, the newest 1,000 at most; the oldest was answered again at ``since``, in UTC.
    """

    modality: Modality
    recipe: str
    mean: float
    lower: float
    upper: float
    sample_count: int
    since: datetime


@dataclass(frozen=True, slots=True)
class CollectionStats:
    """How large a collection is, where it lies, and how far its approximate answers can be trusted.

    ``recall`` is empty while all answers are exact, or no query was sampled yet.
    """

    collection: Collection
    record_count: int
    shards: tuple[ShardStats, ...]
    recall: tuple[RecallEstimate, ...] = ()


@dataclass(frozen=True, slots=True)
class ShardSnapshot:
    """The copy of one shard: all its write batches up to ``applied_sequence``, and none after."""

    applied_sequence: int
    record_count: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A copy of a collection at a URL. ``bytes``: of all its files; ``create_time``: when it was begun, in UTC."""

    url: str
    collection: str
    fingerprint: str
    dimension: int
    metric: Metric
    shard_count: int
    record_count: int
    shards: tuple[ShardSnapshot, ...]
    bytes: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """How far ``create_snapshot`` or ``restore_snapshot`` is.

    ``phase``: "waiting" for another snapshot of the server, "copying" a shard's records aside, "transferring" files
    to or from the URL, "opening" the restored collection, "done". ``bytes_total`` is 0 while unknown, and an estimate
    while a snapshot is made.
    """

    phase: SnapshotPhase
    bytes_done: int
    bytes_total: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard a search tries.

    ``k_factor``: candidates for each hit asked for. ``probed_share``: share of the cells that is scanned, by recipes
    with cells. ``ef_search``: nodes kept in sight, by "hnsw".
    """

    k_factor: float
    probed_share: float
    ef_search: int


@dataclass(frozen=True, slots=True)
class ModalityRecall:
    """Mean share of the exact k nearest that was found, 0 to 1, for queries of one modality.

    It lies between ``lower`` and ``upper`` with 95 % confidence. ``query_count``: the queries it rests on, none of
    which had a part in the choice; 0 for an exact search, which needs none.
    """

    modality: Modality
    mean: float
    lower: float
    upper: float
    query_count: int


@dataclass(frozen=True, slots=True)
class MeasuredPoint:
    """A way to build and to search an index, and what it does.

    ``recall`` is empty when there were too few queries. ``latency_seconds``: of one query, on the server, without the
    network; ``index_bytes``: beside the vectors. Both are None when not known.
    """

    recipe: Recipe
    centred: bool
    effort: Effort
    recall: tuple[ModalityRecall, ...]
    latency_seconds: float | None
    index_bytes: int | None

    @property
    def least_recall(self) -> float | None:
        """The lowest mean of all modalities; None when none was measured."""
        return min((recall.mean for recall in self.recall), default=None)


@dataclass(frozen=True, slots=True)
class Tuning:
    """What ``optimize`` found.

    ``basis``: "measured"; "few_queries", when a default was taken because fewer than 200 recent queries were known;
    "exact", when every vector is compared anyway and nothing was changed. ``front``: all that was found worth its time,
    fastest first. ``target_met``: whether ``chosen`` is sure enough to reach the target. ``time`` is in UTC.
    """

    basis: TuningBasis
    chosen: MeasuredPoint
    front: tuple[MeasuredPoint, ...]
    target_met: bool
    target_recall: float
    k: int
    memory_limit_bytes: int | None
    time: datetime


@dataclass(frozen=True, slots=True)
class TuningProgress:
    """How far ``optimize`` is.

    ``phase``: "waiting" for another tuning of the server, "settling" while new vectors are put into segments,
    "answering" the queries exactly, "measuring" indexes, "rebuilding" segments as was chosen, "done".
    ``steps_total`` is 0 where steps are not counted. ``recipe`` and ``centred``: what is measured.
    """

    phase: TuningPhase
    steps_done: int
    steps_total: int
    recipe: Recipe | None = None
    centred: bool = False


@dataclass(frozen=True, slots=True)
class TuningStatus:
    """What ``optimize`` found last, None when it never did; and how far the one under way is, None without one."""

    last: Tuning | None
    under_way: TuningProgress | None


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A record: None stands for what it does not have or what was not asked for. ``vector``: (dimension,) float32."""

    id: str
    caption: str | None = None
    source_uri: str | None = None
    metadata: Mapping[str, Any] | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class RecordPage:
    """Records in the order of their ids, and the token of the next page; empty after the last one."""

    records: tuple[Record, ...]
    next_page_token: str


@dataclass(frozen=True, slots=True, eq=False)
class Hit:
    """One record that was found.

    ``score``: in the unit of the collection's metric, larger is better (cosine: -1 to 1). ``probability``: that
    caption and image match, 0 to 1, by the model's own scale and bias; None unless a caption was searched under the
    cosine metric. It is small even for good matches: it was trained on one true caption among thousands. The rest is
    None when the record lacks it or ``include`` did not ask for it.
    """

    id: str
    score: float
    probability: float | None = None
    caption: str | None = None
    source_uri: str | None = None
    metadata: Mapping[str, Any] | None = None
    vector: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """How an answer was found, and how far it can be trusted.

    ``exact``: every record was compared, so that no better hit exists. ``estimated_recall``: expected share of the
    exact top k among the hits, 0 to 1; None when unknown. ``rows_scanned``: vectors compared with the query.
    """

    exact: bool
    recipe: str
    shards_asked: int
    shards_answered: int
    rows_scanned: int
    estimated_recall: float | None


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds that a search spent, by stage; 0 for a stage it did not need.

    ``decode`` (or tokenisation), ``queue`` and ``forward`` happen in the embedder, ``shard_search`` and ``merge`` in
    the index; ``total`` is the whole call as the caller saw it. In ``search_many`` queries share requests: decode,
    queue, forward and total are those of the whole call, shard_search and merge those of the request the query was
    in.
    """

    decode_seconds: float = 0.0
    queue_seconds: float = 0.0
    forward_seconds: float = 0.0
    shard_search_seconds: float = 0.0
    merge_seconds: float = 0.0
    total_seconds: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult(Sequence[Hit]):
    """The hits of one query, best first: a sequence of Hit, kept in columns.

    ``scores`` and ``probabilities`` (None unless a caption was searched under the cosine metric) are (n,) arrays;
    ``records`` and ``vectors`` (n, dimension) are None unless asked for. ``error``: in ``search_many``, why this
    query has no answer (then there are no hits and ``evidence`` is None); ``search`` raises it instead.
    """

    ids: tuple[str, ...] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    probabilities: np.ndarray | None = None
    records: tuple[Record, ...] | None = None
    vectors: np.ndarray | None = None
    evidence: Evidence | None = None
    stages: Stages = field(default_factory=Stages)
    truncated: bool = False
    error: CallError | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, rank: int) -> Hit: ...
    @overload
    def __getitem__(self, rank: slice) -> list[Hit]: ...
    def __getitem__(self, rank: int | slice) -> Hit | list[Hit]:
        if isinstance(rank, slice):
            return [self[i] for i in range(*rank.indices(len(self)))]
        record = self.records[rank] if self.records is not None else Record(self.ids[rank])
        return Hit(
            id=self.ids[rank],
            score=float(self.scores[rank]),
            probability=None if self.probabilities is None else float(self.probabilities[rank]),
            caption=record.caption,
            source_uri=record.source_uri,
            metadata=record.metadata,
            vector=None if self.vectors is None else self.vectors[rank],
        )

    def __iter__(self) -> Iterator[Hit]:
        return (self[rank] for rank in range(len(self)))


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that was refused: its position in the input from 0, its id, and why."""

    position: int
    id: str
    error: CallError


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What became of the records of one ``upsert``: ``written`` are on disk and can be found."""

    written: int
    failed: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far ``index_images`` is: ``done`` images are acknowledged by the index, ``skipped`` were there before.

    ``total`` is None when the input does not know its length.
    """

    done: int
    total: int | None
    failed: int
    skipped: int


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What became of the images of one ``index_images``.

    ``indexed``: written in this call and acknowledged by the index; ``skipped``: were there before; ``failed``: one
    entry per image that is not in the collection because of this call.
    """

    indexed: int
    skipped: int
    failed: tuple[Failure, ...]
    seconds: float
