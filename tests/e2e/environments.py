"""Virtual environments that hold the built wheel and exactly the distributions it asks for, made without a network.

The distributions are linked, file by file, from the environment the tests run in.
"""

import re
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

_PROJECT = "eyebright"


def _name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required_distributions(extras: frozenset[str]) -> set[str]:
    """Names of every distribution that ``eyebright[extras]`` installs, itself left out."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(_PROJECT, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in metadata.requires(name) or ():
            requirement = Requirement(line)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *wanted}):
                waiting.append((_name(requirement.name), frozenset(requirement.extras)))
    return {name for name, _ in seen} - {_PROJECT}


def make_environment(folder: Path, wheel: Path, extras: frozenset[str]) -> Path:
    """Make a virtual environment with the wheel and what these extras ask for; return its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*")) / "site-packages"
    for name in sorted(required_distributions(extras)):
        for file in metadata.files(name) or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            link = site / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(Path(str(file.locate())).resolve())
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*command, "--disable-pip-version-check", str(wheel)], check=True, capture_output=True)
    return python


def installed_bytes(python: Path) -> int:
    """Size of everything in the environment's site-packages, links followed."""
    site = next((python.parents[1] / "lib").glob("python*")) / "site-packages"
    return sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
