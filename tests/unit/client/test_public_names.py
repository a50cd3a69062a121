"""The public names are a promise: this list changes only on purpose."""

import subprocess
import sys

import eyebright_client

NAMES = [
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


def test_public_names() -> None:
    assert eyebright_client.__all__ == NAMES
    assert {name for name in vars(eyebright_client) if not name.startswith("_")} == set(NAMES)


def test_import_loads_nothing_heavy() -> None:
    script = (
        "import sys, eyebright_client; "
        "heavy = {'torch', 'faiss', 'pydantic', 'PIL', 'transformers', 'prometheus_client', 'typer', 'rich',"
        " 'service_runtime', 'index_service', 'embedder_service'} & set(sys.modules); "
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
