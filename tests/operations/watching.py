"""A real Prometheus and a real Alertmanager over services of this machine, for the length of a block.

They read what is shipped: ``deploy/prometheus/prometheus.yaml`` with this machine's ports in place of names, and rules.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.prometheus import Prometheus
from tests.processes import RunningService

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = SHIPPED / "rules"
SCRAPE_SECONDS = 1

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LISTENING = re.compile(r'msg="Listening on" address=([\d.]+:\d+)')


def program(name: str) -> str:
    """Where prometheus, promtool or prometheus-alertmanager lies; the test is skipped where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(
            f"{name} is missing; on Debian: apt-get install --no-install-recommends prometheus prometheus-alertmanager"
        )
    return found


def wait_until(fulfilled: Callable[[], object], what: str, seconds: float) -> None:
    """Look until it is so. Raises AssertionError when it is not in time."""
    deadline = time.monotonic() + seconds
    while not fulfilled():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True)
class Watch:
    """Both, running."""

    prometheus: Prometheus
    alertmanager_url: str

    def firing(self) -> list[dict[str, str]]:
        """The labels of the alerts that Alertmanager holds and has not seen end."""
        with urllib.request.urlopen(f"{self.alertmanager_url}/api/v2/alerts?active=true", timeout=10) as answer:
            return [alert["labels"] for alert in json.load(answer)]


@contextmanager
def watching(folder: Path, embedder: RunningService, index: RunningService, rules: Path = RULES) -> Iterator[Watch]:
    """Prometheus scrapes both services every second, evaluates the rules as often, and tells Alertmanager. Skips the
    test where they are not installed.
    """
    services = {"eyebright-embedder": embedder, "eyebright-index": index}
    targets = {job: service.metrics_url.removeprefix("http://") for job, service in services.items()}
    prometheus, alertmanager = program("prometheus"), program("prometheus-alertmanager")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        routes = folder / "alertmanager.yaml"
        routes.write_text(yaml.safe_dump({"route": {"receiver": "nobody"}, "receivers": [{"name": "nobody"}]}), "utf-8")
        alerts = stack.enter_context(
            _running(
                [
                    alertmanager,
                    f"--config.file={routes}",
                    f"--storage.path={folder / 'alertmanager'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--cluster.listen-address=",
                ],
                folder / "alertmanager.log",
            )
        )
        config = folder / "prometheus.yaml"
        config.write_text(yaml.safe_dump(_configured(targets, rules, alerts)), "utf-8")
        address = stack.enter_context(
            _running(
                [
                    prometheus,
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'prometheus'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--enable-feature=exemplar-storage",
                    "--rules.alert.resend-delay=1s",
                ],
                folder / "prometheus.log",
            )
        )
        server = Prometheus(f"http://{address}")
        wait_until(server.ready, "Prometheus is ready", _START_SECONDS)
        wait_until(
            lambda: set(server.targets().values()) == {"up"} and len(server.targets()) == len(targets),
            "Prometheus scrapes every target",
            _START_SECONDS,
        )
        yield Watch(server, f"http://{alerts}")


def _configured(targets: Mapping[str, str], rules: Path, alertmanager: str) -> Any:
    """The shipped configuration, with other targets, and looking more often."""
    config = yaml.safe_load((SHIPPED / "prometheus.yaml").read_text("utf-8"))
    seconds = f"{SCRAPE_SECONDS}s"
    config["global"] |= {"scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": seconds}
    config["rule_files"] = [f"{rules}/*.yaml"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(targets) == set(jobs), f"expected a target for each of {sorted(jobs)}, not {sorted(targets)}"
    config["scrape_configs"] = [
        {"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()
    ]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    return config


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[str]:
    """A server for the length of a block; yields the address that it says it listens on."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:

        def listening() -> bool:
            assert process.poll() is None, f"{command[0]} ended:\n{log.read_text('utf-8')[-4000:]}"
            return _LISTENING.search(log.read_text("utf-8")) is not None

        wait_until(listening, f"{command[0]} listens", _START_SECONDS)
        found = _LISTENING.search(log.read_text("utf-8"))
        assert found is not None
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
