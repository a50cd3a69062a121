"""Pages that follow from the code say what it says."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_they_are_up_to_date() -> None:
    found = subprocess.run([sys.executable, "-m", "docs.generate", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert not found.returncode, f"run `make docs`: {found.stdout}{found.stderr}"


def test_metrics_can_be_listed_beside_torch_and_faiss() -> None:
    program = "import sys, docs.metric_inventory; print({'torch', 'transformers', 'faiss'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
