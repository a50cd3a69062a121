"""compose.yaml: valid, closed to other machines, and of one mind with the services' settings."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from eyebright_cli import connection
from pydantic_settings import BaseSettings

from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from tests.deploy.dockerfile import image_environment, read_stages
from tests.deploy.settings_of import check_settings

FOLDER = Path(__file__).parents[2] / "deploy"
COMPOSE = FOLDER / "compose.yaml"
SERVICES: dict[str, type[BaseSettings]] = {"embedder": EmbedderSettings, "index": IndexSettings}


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load(COMPOSE.read_text("utf-8"))


def environment(service: dict[str, Any]) -> dict[str, str]:
    """Environment of a service, with the default where a variable of the caller's may stand."""
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in service["environment"].items()}


def test_it_follows_the_compose_specification() -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [str(tool), "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_settings_ports_and_time_to_stop(name: str, compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = compose["services"][name]
    settings = check_settings(SERVICES[name], image_environment(name) | environment(service), monkeypatch)
    assert service["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert float(service["stop_grace_period"].removesuffix("s")) >= settings.drain_seconds + 10
    assert service["build"]["target"] in read_stages()
    assert (FOLDER / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_the_index_keeps_its_data(compose: Any) -> None:
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["index"]["volumes"])
    assert mounts["index-data"] == image_environment("index")["EYEBRIGHT_INDEX_DATA_FOLDER"]
    assert environment(compose["services"]["index"])["EYEBRIGHT_INDEX_SNAPSHOT_URLS"].startswith("/data/")
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            assert (FOLDER / source).exists() if source.startswith(".") else source in compose["volumes"]


def test_nothing_is_published_beyond_loopback_and_nothing_is_privileged(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        if name in (*SERVICES, "client", "prometheus"):
            assert service["read_only"] is True


def test_the_client_is_told_where_the_services_are(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given = environment(compose["services"]["client"])
    options = {"embedder": connection.EmbedderOption, "index": connection.IndexOption}
    variables = {get_args(option)[1].envvar: name for name, option in options.items()}
    assert set(given) == set(variables)
    for variable, name in variables.items():
        settings = check_settings(
            SERVICES[name], image_environment(name) | environment(compose["services"][name]), monkeypatch
        )
        assert given[variable] == f"dns:///{name}:{settings.port}"
