"""Imports go one way: who may import what, read from the source of every module."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"eyebright", "service_runtime", "embedder_service", "index_service", "eyebright_client", "eyebright_cli"}

MAY_IMPORT = {
    "protos/eyebright": {"eyebright"},
    "service_runtime": {"service_runtime"},
    "embedder_service": {"embedder_service", "eyebright", "service_runtime"},
    "index_service": {"index_service", "eyebright", "service_runtime"},
    "client/eyebright_client": {"eyebright_client", "eyebright"},
    "client/eyebright_cli": {"eyebright_cli", "eyebright_client"},
}

TORCH_PLACES = (
    "embedder_service/backends/",
    "embedder_service/checkpoint.py",
    "embedder_service/conformance.py",
    "embedder_service/mistakes.py",
    "embedder_service/reference_towers.py",
    "embedder_service/demo_checkpoint/training/",
)
FAISS_PLACES = ("index_service/segment.py", "index_service/recipes.py", "index_service/tuner.py")
TRACING_PLACES = ("service_runtime/open_telemetry.py", "client/eyebright_client/_tracing.py")
STUB_PLACES = (
    "embedder_service/servicer.py",
    "embedder_service/converters.py",
    "index_service/servicer.py",
    "index_service/converters.py",
    "index_service/collection_converters.py",
    "index_service/filter_converters.py",
    "index_service/search_converters.py",
    "index_service/snapshot_calls.py",
    "index_service/optimize_calls.py",
    "index_service/tuning_converters.py",
    "protos/eyebright/vectors/numpy_codec.py",
    "client/eyebright_client/_messages.py",
)


def _sources(folder: str) -> list[Path]:
    found = [path for path in sorted((ROOT / folder).rglob("*.py")) if "_pb2" not in path.name]
    assert found, f"no source under {folder}"
    return found


def _imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_packages_import_only_what_lies_below_them(folder: str) -> None:
    for path in _sources(folder):
        ours = {name.split(".")[0] for name in _imports(path)} & OURS
        assert ours <= MAY_IMPORT[folder], f"{path.relative_to(ROOT)} imports {sorted(ours - MAY_IMPORT[folder])}"


@pytest.mark.parametrize(
    ("library", "places"),
    [
        ("torch", TORCH_PLACES),
        ("transformers", TORCH_PLACES),
        ("faiss", FAISS_PLACES),
        ("opentelemetry", TRACING_PLACES),
    ],
)
def test_heavy_libraries_stay_where_they_belong(library: str, places: tuple[str, ...]) -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in MAY_IMPORT
        for path in _sources(folder)
        if library in {name.split(".")[0] for name in _imports(path)}
    }
    assert users, f"nothing imports {library}: does this test still look in the right place?"
    assert all(user.startswith(places) for user in users), f"{library} is imported by {sorted(users)}"


def test_generated_messages_stay_at_the_edges() -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in MAY_IMPORT
        for path in _sources(folder)
        if any(
            part.endswith(("_pb2", "_pb2_grpc"))
            for name in _imports(path)
            if name.startswith("eyebright")
            for part in name.split(".")
        )
    }
    assert users
    assert users <= set(STUB_PLACES), f"stubs are imported by {sorted(users - set(STUB_PLACES))}"


def test_service_runtime_knows_no_heavy_library() -> None:
    for path in _sources("service_runtime"):
        assert not {name.split(".")[0] for name in _imports(path)} & {"torch", "faiss", "transformers", "eyebright"}
