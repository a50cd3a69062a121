"""The Dockerfile: what it copies is there, what it starts exists, its ports and probes are the services' own."""

import fnmatch
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from tests.deploy.dockerfile import FOLDER, IMAGES, ROOT, image_environment, read_stages
from tests.deploy.requirements import FILES_OF_IMAGE
from tests.deploy.settings_of import check_settings

SETTINGS: dict[str, type[BaseSettings]] = {"embedder": EmbedderSettings, "index": IndexSettings}


def test_hadolint_has_nothing_to_say() -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), str(FOLDER / "Dockerfile")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    stages = read_stages()
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    assert rules[0] == "*"
    copied = 0
    for stage in stages.values():
        for line in stage.arguments("COPY"):
            *sources, _ = line.split()
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in stages
                continue
            for source in sources:
                pattern = source.replace("${TORCH}", "*")
                assert list(ROOT.glob(pattern)), f"{stage.name} copies {source}, which is not there"
                assert any(fnmatch.fnmatch(source, rule) for rule in kept), f"{source} is kept from the builder"
                copied += 1
    assert copied > 8
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    needed = {part.split("/")[0] for part in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    needed |= {project["project"]["readme"], "LICENSE", "hatch_build.py"}
    into_project = {source for line in stages["project"].arguments("COPY") for source in line.split()[:-1]}
    assert needed <= into_project


@pytest.mark.parametrize("image", IMAGES)
def test_each_image_installs_its_own_requirements(image: str) -> None:
    environment = read_stages()[f"{image}-environment"]
    installed = {name for line in environment.arguments("RUN") for name in re.findall(r"requirements-[^\s\"]*", line)}
    expected = {f"requirements-{name}.txt" for name in FILES_OF_IMAGE[image]}
    assert {name.replace("${TORCH}", "cpu") for name in installed} == expected
    for line in environment.arguments("RUN"):
        assert "--require-hashes" in line
        assert "--no-deps" in line


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_a_numeric_user_and_starts_something_that_exists(image: str) -> None:
    stage = read_stages()[image]
    assert stage.base == "python", "the final stage must not hold pip"
    assert stage.arguments("USER") == ["10001:10001"]
    command = stage.list_of("ENTRYPOINT")
    if image == "client":
        with (ROOT / "pyproject.toml").open("rb") as file:
            assert command[0] in tomllib.load(file)["project"]["scripts"]
    else:
        assert command == ["python3", "-m", f"{image}_service"]
        assert find_spec(f"{command[2]}.__main__") is not None


@pytest.mark.parametrize("image", SETTINGS)
def test_ports_and_probe_are_those_of_the_settings(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = check_settings(SETTINGS[image], image_environment(image) | {_insecure(image): "true"}, monkeypatch)
    stage = read_stages()[image]
    assert stage.arguments("EXPOSE") == [f"{settings.port} {settings.metrics_port}"]
    (probe,) = stage.arguments("HEALTHCHECK")
    assert f"http://127.0.0.1:{settings.metrics_port}/readyz" in probe
    assert (settings.host, settings.metrics_host) == ("0.0.0.0", "0.0.0.0")


@pytest.mark.parametrize("image", SETTINGS)
def test_an_image_alone_refuses_to_listen_unsecured(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"host 0\.0\.0\.0 is reachable from other machines"):
        check_settings(SETTINGS[image], image_environment(image), monkeypatch)


def _insecure(image: str) -> str:
    return f"EYEBRIGHT_{image.upper()}_INSECURE"
