"""The images, built from the Dockerfile and run, without Docker: a gallery is indexed, searched and copied in them."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import NEEDED, Builder, Container, Image, loopback_network, unmount_below
from tests.deploy.dockerfile import IMAGES
from tests.deploy.requirements import requirements_path
from tests.deploy.walk_through import (
    PRINT_GALLERY,
    compose_environment,
    index_gallery,
    search_gallery,
    snapshot_gallery,
)

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Some 25 GB, removed at the end; under /var/tmp, since /tmp may lie in memory."""
    with tempfile.TemporaryDirectory(prefix="eyebright-images-", dir="/var/tmp") as made:
        yield Path(made)
        unmount_below(Path(made))


@pytest.fixture(scope="module")
def images(folder: Path) -> dict[str, Image]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and buildah, mmdebstrap, iproute2, util-linux; missing: {missing or 'root'}")
    builder = Builder(folder)
    builder.bootstrap()
    wheels = folder / "wheels"
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--require-hashes",
        "--dest",
        str(wheels),
    ]
    download += shlex.split(os.environ.get("TORCH_PIP_OPTIONS", ""))
    subprocess.run([*download, "--requirement", str(requirements_path("torch-cpu"))], check=True)
    (wheel,) = wheels.iterdir()
    builder.offer_torch(wheel)
    return {name: builder.build(name) for name in ("index", "client", "embedder")}


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    with loopback_network(f"eyebright-{os.getpid()}") as name:
        yield name


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_restricted_and_holds_no_more_than_it_needs(
    images: dict[str, Image], network: str, name: str
) -> None:
    container = Container(images[name], network)
    assert container.run("id", "-u", "-n").strip() == "eyebright"
    assert container.run("id", "-u").strip() == "10001"
    for path in ("/opt/eyebright/x", "/etc/x", "/x"):
        assert "Read-only file system" in container.refuses("touch", path)
    container.run("touch", "/tmp/x")
    foreign = {"embedder": ["faiss"], "index": ["torch", "transformers", "PIL"], "client": ["torch", "faiss", "PIL"]}
    for module in ("pip", "hatchling", "grpc_tools", *foreign[name]):
        assert "No module named" in container.refuses("python3", "-c", f"import {module}")
    script = "import pathlib, sys; print(len([*pathlib.Path(sys.prefix).rglob('*.pyc')]) > 100)"
    assert container.run("python3", "-c", script).strip() == "True", "modules would be compiled at each start"


@pytest.mark.parametrize("name", ["embedder", "index"])
def test_a_service_alone_refuses_to_be_reachable(images: dict[str, Image], network: str, name: str) -> None:
    image = images[name]
    assert "is reachable from other machines" in Container(image, network).refuses(*image.entry_point)


def test_the_images_work_together(images: dict[str, Image], network: str, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    os.chown(data, 10001, 10001)
    embedder = Container(images["embedder"], network, compose_environment("embedder"))
    index = Container(images["index"], network, compose_environment("index"), {data: "/data"})
    client = Container(images["client"], network)
    with embedder.serving(folder / "embedder.log"):
        with index.serving(folder / "index.log"):
            index_gallery(client.enter, client.run("python3", *PRINT_GALLERY).strip())
            search_gallery(client.enter)
            snapshot_gallery(client.enter, "/data/snapshots/monday")
        with index.serving(folder / "index.log"):
            search_gallery(client.enter)
