"""What the embedder may import, asked of fresh processes."""

import subprocess
import sys


def modules_after(*imported: str) -> set[str]:
    program = f"import sys, {', '.join(imported)}; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    )


def test_the_service_imports_neither_faiss_nor_the_client() -> None:
    modules = modules_after("embedder_service.command", "embedder_service.service")
    assert {"torch", "transformers"} <= modules
    assert not {"faiss", "eyebright_client", "index_service", "torchvision"} & modules


def test_only_checkpoint_and_backends_import_torch() -> None:
    leaves = (
        "command",
        "settings",
        "architecture",
        "metrics",
        "images",
        "texts",
        "fingerprint",
        "checkpoint_files",
        "batcher",
        "embedder",
    )
    modules = modules_after(*(f"embedder_service.{leaf}" for leaf in leaves))
    assert not {"torch", "transformers"} & modules
