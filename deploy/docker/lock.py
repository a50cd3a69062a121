"""``make requirements``: writes what each image installs, every file with its exact version and hashes.

Owns which extras of the project go into which image. Versions come from constraints.txt, hashes from the package index;
uv resolves, for CPython 3.11 on Linux. torch is kept apart from what the embedder needs beside it: its CPU build comes
from PyTorch's own index, and requirements-torch-cpu.txt is written by hand, from what that index states.
"""

import subprocess
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
PYTHON_VERSION = "3.11"
"""Of the Debian release that the images start from."""

EXTRAS = {"index": ("index", "s3", "otel"), "client": ("cli",), "embedder": ("embedder", "otel")}
"""Extras of the distribution in each image."""

_TORCH_BUILD = ("torch", "triton", "nvidia-", "cuda-")
"""How the names of torch, and of what only its CUDA build needs, begin."""


def requirements_file(name: str) -> Path:
    """The file of an image, of "build", or of a build of torch."""
    return FOLDER / f"requirements-{name}.txt"


def compile_requirements(source: str, output: Path, *options: str) -> list[str]:
    """Resolve and write one file; returns the names in it. ``source`` is pyproject.toml, or lines of requirements."""
    from_pyproject = source == "pyproject.toml"
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-config"]
    command += ["--constraints", "constraints.txt", "--generate-hashes", "--only-binary", ":all:"]
    command += ["--python-version", PYTHON_VERSION, "--python-platform", "linux", "--no-annotate"]
    command += ["--custom-compile-command", "make requirements", "--output-file", str(output), *options]
    command.append("pyproject.toml" if from_pyproject else "-")
    given = None if from_pyproject else source
    subprocess.run(command, input=given, text=True, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)  # noqa: S603
    return [line.partition("==")[0] for line in output.read_text("utf-8").splitlines() if "==" in line]


def _write(name: str, source: str, *options: str) -> None:
    file = requirements_file(name)
    names = compile_requirements(source, file, *options)
    sys.stdout.write(f"{file.relative_to(ROOT)}: {len(names)} distributions\n")


def main() -> None:
    """Write every file but the one kept by hand."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        _write("build", "\n".join(tomllib.load(file)["build-system"]["requires"]))
    for image in ("index", "client"):
        _write(image, "pyproject.toml", *(f"--extra={extra}" for extra in EXTRAS[image]))
    extras = tuple(f"--extra={extra}" for extra in EXTRAS["embedder"])
    everything = compile_requirements("pyproject.toml", requirements_file("torch-cuda"), *extras)
    torch_build = [name for name in everything if name.startswith(_TORCH_BUILD)]
    beside = [name for name in everything if name not in torch_build]
    _write("embedder", "pyproject.toml", *extras, *(f"--no-emit-package={name}" for name in torch_build))
    _write("torch-cuda", "pyproject.toml", *extras, *(f"--no-emit-package={name}" for name in beside))


if __name__ == "__main__":
    main()
