"""What each image installs, installed into a clean environment: the services run from it, the client searches in them.

The same requirement files and the same wheel as in the images, without a container. ``TORCH_PIP_OPTIONS`` tells pip
where the CPU build of torch is, as it does for `make setup`.
"""

import os
import shlex
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.deploy.dockerfile import IMAGES, ROOT
from tests.deploy.requirements import FILES_OF_IMAGE, read_pins, requirements_path
from tests.deploy.walk_through import PRINT_GALLERY, index_gallery, search_gallery, snapshot_gallery
from tests.processes import running_service

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]


def run(*command: object, environment: dict[str, str] | None = None) -> str:
    arguments = [str(part) for part in command]
    given = os.environ | (environment or {})
    finished = subprocess.run(arguments, capture_output=True, text=True, check=False, env=given, cwd="/")
    assert finished.returncode == 0, f"{shlex.join(arguments)}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def pip(python: Path, *arguments: object) -> None:
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *arguments)


@pytest.fixture(scope="module", autouse=True)
def nothing_of_ours_is_found_by_accident() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def pythons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Python of a clean environment for each image, the wheel built with what requirements-build.txt names."""
    folder = tmp_path_factory.mktemp("environments")
    made = {}
    for name in ("build", *IMAGES):
        venv.create(folder / name, with_pip=False)
        made[name] = folder / name / "bin" / "python"
    hashed = ("--require-hashes", "--only-binary", ":all:", "--requirement")
    pip(made["build"], *hashed, requirements_path("build"))
    wheels = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheel", ROOT)
    run(sys.executable, "-m", "pip", "--python", made["build"], *wheels)
    (wheel,) = (folder / "wheel").iterdir()
    for image in IMAGES:
        for name in FILES_OF_IMAGE[image]:
            options = shlex.split(os.environ.get("TORCH_PIP_OPTIONS", "")) if name.startswith("torch") else ()
            pip(made[image], *options, *hashed, requirements_path(name))
        pip(made[image], wheel)
    return made


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_else_is_installed(pythons: dict[str, Path], image: str) -> None:
    script = "from importlib.metadata import distributions as d; print(*(f'{x.name}=={x.version}' for x in d()))"
    found = (line.split("==") for line in run(pythons[image], "-c", script).split())
    installed: dict[str, str] = {canonicalize_name(name): version for name, version in found}
    assert installed.pop("eyebright")
    assert installed == {pin.name: pin.version for pin in read_pins(*FILES_OF_IMAGE[image]).values()}


def test_the_services_answer_the_client(pythons: dict[str, Path], tmp_path: Path) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"), "--snapshot-urls", str(tmp_path / "snapshots"))
    with (
        running_service("embedder_service", tmp_path / "embedder", python=pythons["embedder"]) as embedder,
        running_service("index_service", tmp_path / "index", *arguments, python=pythons["index"]) as index,
    ):
        addresses = {"EYEBRIGHT_EMBEDDER": embedder.address, "EYEBRIGHT_INDEX": index.address}

        def eyebright(*parts: str) -> str:
            return run(pythons["client"].with_name("eyebright"), *parts, environment=addresses)

        index_gallery(eyebright, run(pythons["client"], *PRINT_GALLERY).strip())
        search_gallery(eyebright)
        snapshot_gallery(eyebright, str(tmp_path / "snapshots" / "monday"))
        assert embedder.terminate() == 0
        assert index.terminate() == 0
