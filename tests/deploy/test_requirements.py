"""What the images install: the very versions that are tested, nothing missing, nothing more, every file by its hash."""

import re
import tomllib

import pytest

from tests.deploy.requirements import FILES_OF_IMAGE, ROOT, read_constraints, read_pins, requirements_path
from tests.e2e.environments import required_distributions

EXTRAS = {"embedder": {"embedder", "otel"}, "index": {"index", "s3", "otel"}, "client": {"cli"}}
NAMES = sorted(path.stem.removeprefix("requirements-") for path in requirements_path("index").parent.glob("req*.txt"))


def of_cuda(name: str) -> bool:
    """Whether a distribution belongs to the CUDA build of torch, which a developer may have."""
    return name.startswith(("nvidia-", "cuda-", "triton"))


def test_every_file_is_known() -> None:
    used = {name for names in FILES_OF_IMAGE.values() for name in names} | {"build", "torch-cuda"}
    assert set(NAMES) == used


@pytest.mark.parametrize("name", NAMES)
def test_every_line_has_hashes_and_the_version_of_constraints(name: str) -> None:
    constraints = read_constraints()
    pins = read_pins(name)
    assert pins
    for pin in pins.values():
        assert pin.hashes, f"{pin.name} has no hash"
        if not of_cuda(pin.name):
            assert pin.version.partition("+")[0] == constraints[pin.name], pin.name


@pytest.mark.parametrize("image", FILES_OF_IMAGE)
def test_an_image_installs_what_its_extras_ask_for_and_no_more(image: str) -> None:
    installed = set(read_pins(*FILES_OF_IMAGE[image]))
    asked = {name for name in required_distributions(frozenset(EXTRAS[image])) if not of_cuda(name)}
    assert installed == asked, "run `make requirements`"


@pytest.mark.parametrize("image", ["index", "client"])
def test_no_torch_where_none_is_needed(image: str) -> None:
    assert not {"torch", "transformers", "triton"} & set(read_pins(*FILES_OF_IMAGE[image]))


def test_the_client_has_no_faiss_either() -> None:
    assert "faiss-cpu" not in read_pins("client")
    assert "faiss-cpu" in read_pins("index")


def test_builds_of_torch_are_of_one_version() -> None:
    cpu, cuda = read_pins("torch-cpu"), read_pins("torch-cuda")
    assert set(cpu) == {"torch"}
    assert cpu["torch"].version == f"{cuda['torch'].version}+cpu"
    assert all(name == "torch" or of_cuda(name) for name in cuda)
    assert not set(cuda) & set(read_pins("embedder"))


def test_the_wheel_is_built_with_what_pyproject_names() -> None:
    pins = read_pins("build")
    with (ROOT / "pyproject.toml").open("rb") as file:
        requires = tomllib.load(file)["build-system"]["requires"]
    for requirement in requires:
        assert re.split("[<>=]", requirement)[0] in pins
