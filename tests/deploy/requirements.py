"""The hash-pinned requirement files of the images, as tests read them."""

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import FOLDER

ROOT = Path(__file__).parents[2]
FILES_OF_IMAGE = {
    "embedder": ("torch-cpu", "embedder"),
    "index": ("index",),
    "client": ("client",),
}
"""Names of the files that an image installs, in order."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One line: a distribution, its version and the hashes of its files."""

    name: str
    version: str
    hashes: tuple[str, ...]


def requirements_path(name: str) -> Path:
    return FOLDER / f"requirements-{name}.txt"


def read_pins(*names: str) -> dict[str, Pin]:
    """Every pin of these files, by normalised name."""
    found: dict[str, Pin] = {}
    for name in names:
        text = requirements_path(name).read_text("utf-8").replace("\\\n", " ")
        for line in text.splitlines():
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            requirement = Requirement(re.split(r"\s+--hash=", line)[0])
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", line))
            key = canonicalize_name(requirement.name)
            assert key not in found, f"{key} stands twice"
            found[key] = Pin(key, specifier.version, hashes)
    return found


def read_constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}
