"""Alerts that reach a real Alertmanager, from the shipped rules over real services that something is wrong with."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from eyebright_client import CallError, Client, Timeouts

from tests.operations.quick_rules import quicken, quicker
from tests.operations.series import rules
from tests.operations.traffic import POINTS, Traffic, User, going_on
from tests.operations.watching import Watch, wait_until, watching
from tests.processes import RunningService, running_service

FIRES_SECONDS = 90.0
_EMBEDDER = ("--queue-limit", "64", "--max-items", "32", "--canary-seconds", "5")
_INDEX = ("--seal-rows", "8192", "--index-from-rows", "5000", "--recall-probe-share", "1")


@dataclass(frozen=True, slots=True)
class Scene:
    """Both services, watched, and traffic for them."""

    watch: Watch
    traffic: Traffic
    client: Client
    embedder: RunningService
    index: RunningService

    def firing(self, **labels: str) -> bool:
        """Whether Alertmanager holds an alert with these labels, and has not seen it end."""
        return any(labels.items() <= found.items() for found in self.watch.firing())

    def fires(self, **labels: str) -> None:
        """Wait for it."""
        wait_until(lambda: self.firing(**labels), f"{labels} among {self.watch.firing()}", FIRES_SECONDS)

    def ends(self, **labels: str) -> None:
        """Wait for its end."""
        wait_until(lambda: not self.firing(**labels), f"the end of {labels}", FIRES_SECONDS)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder: Path = tmp_path_factory.mktemp("scene")
    data = ("--data-folder", str(folder / "data"), "--recall-probe-cpu-share", "0.5")
    with (
        running_service("embedder_service", folder, *_EMBEDDER) as embedder,
        running_service("index_service", folder, *data, *_INDEX) as index,
    ):
        rules_folder = quicken(folder / "rules")
        with (
            watching(folder / "watch", embedder, index, rules_folder) as watch,
            Client(embedder.address, index.address, timeouts=Timeouts(embed=0.5)) as client,
        ):
            traffic = Traffic(client, pictures=48, points=32_768)
            traffic.fill()
            yield Scene(watch, traffic, client, embedder, index)


def test_quick_rules_differ_in_their_durations_alone() -> None:
    assert quicker("rate(a[5m]) > avg_over_time(b[3d]) offset 15m * 300") == (
        "rate(a[5s]) > avg_over_time(b[4320s]) offset 15s * 300"
    )
    changed = [rule for rule in rules() if quicker(rule["expr"]) != rule["expr"]]
    assert len(changed) > len(rules()) / 2


@pytest.mark.long
@pytest.mark.timeout(600)
def test_lowered_recall(scene: Scene) -> None:
    """Somebody sets an index by hand that keeps nine tenths of the hits: too few, but too many for a page."""
    searching = [User(scene.traffic.search_points, 50) for _ in range(2)]
    with going_on(searching):
        wait_until(lambda: scene.watch.prometheus.now("eyebright:recall:ratio5m"), "recall is known", FIRES_SECONDS)
        assert not scene.firing(alertname="EyebrightRecallLow")
        scene.client.set_index("ivf-flat", name=POINTS)
        scene.fires(alertname="EyebrightRecallLow", severity="ticket", window="3d", collection=POINTS, modality="text")
        scene.client.set_index("auto", name=POINTS)
        scene.ends(alertname="EyebrightRecallLow")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_overload(scene: Scene) -> None:
    """More pictures than the device can embed, from callers with half a second of patience."""
    assert not scene.firing(alertname="EyebrightEmbedderOverloaded")
    over = threading.Event()

    def insist() -> None:
        while not over.is_set():
            with suppress(CallError):
                scene.traffic.embed_pictures()

    with ThreadPoolExecutor(16) as callers:
        asking = [callers.submit(insist) for _ in range(16)]
        try:
            scene.fires(alertname="EyebrightEmbedderOverloaded", severity="page", tower="image")
            scene.fires(alertname="EyebrightCallsLate", severity="page", method="EmbedImages", window="1h")
        finally:
            over.set()
        for caller in asking:
            caller.result()
    scene.ends(alertname="EyebrightEmbedderOverloaded")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_killed_embedder(scene: Scene) -> None:
    assert not scene.firing(alertname="EyebrightDown")
    scene.embedder.kill()
    scene.fires(alertname="EyebrightDown", severity="ticket", job="eyebright-embedder")
    scene.fires(alertname="EyebrightNoneServing", severity="page", service="eyebright.embedder.v1.EmbedderService")
    assert not scene.firing(alertname="EyebrightDown", job="eyebright-index")
