"""The Eyebright client: index images and find them by a caption or by another image.

    from eyebright_client import Client

    with Client("localhost:7001", "localhost:7002") as client:
        client.index_images({"cat": "pictures/cat.jpg", "dog": "pictures/dog.jpg"})
        for hit in client.search("a sleeping cat", k=1):
            print(hit.id, hit.score, hit.probability)

Owns the list of public names and nothing else. ``AsyncClient`` has the same methods, awaitable.
"""

from eyebright_client._async_client import AsyncClient
from eyebright_client._client import Client
from eyebright_client._connection import TLS
from eyebright_client._exceptions import (
    Aborted,
    AlreadyExists,
    CallError,
    Cancelled,
    ClientClosed,
    DeadlineExceeded,
    EmbedderNotConfigured,
    EyebrightError,
    FailedPrecondition,
    FingerprintMismatch,
    ImageUnreadable,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from eyebright_client._filters import F, Filter
from eyebright_client._images import Image, ImageItem
from eyebright_client._results import (
    Collection,
    CollectionStats,
    Effort,
    Embedding,
    Embeddings,
    EmbedTimings,
    Evidence,
    Failure,
    Hit,
    IndexReport,
    MeasuredPoint,
    ModalityRecall,
    Model,
    Progress,
    RecallEstimate,
    Record,
    SearchResult,
    ShardSnapshot,
    ShardStats,
    Snapshot,
    SnapshotProgress,
    Stages,
    Tuning,
    TuningProgress,
    TuningStatus,
    WriteReport,
)
from eyebright_client._timeouts import Timeouts

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "CallError",
    "Cancelled",
    "Client",
    "ClientClosed",
    "Collection",
    "CollectionStats",
    "DeadlineExceeded",
    "Effort",
    "EmbedTimings",
    "EmbedderNotConfigured",
    "Embedding",
    "Embeddings",
    "Evidence",
    "EyebrightError",
    "F",
    "FailedPrecondition",
    "Failure",
    "Filter",
    "FingerprintMismatch",
    "Hit",
    "Image",
    "ImageItem",
    "ImageUnreadable",
    "IndexReport",
    "InternalError",
    "InvalidArgument",
    "MeasuredPoint",
    "ModalityRecall",
    "Model",
    "NotFound",
    "PermissionDenied",
    "Progress",
    "RecallEstimate",
    "Record",
    "ResourceExhausted",
    "SearchResult",
    "ShardSnapshot",
    "ShardStats",
    "Snapshot",
    "SnapshotProgress",
    "Stages",
    "Timeouts",
    "Tuning",
    "TuningProgress",
    "TuningStatus",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "WriteReport",
]
