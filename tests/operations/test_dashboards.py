"""The dashboards: as the code makes them, of queries that a real Prometheus over real services answers."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from eyebright_client import Client

from deploy.grafana.dashboard_files import FOLDER, Panel, Target, read_dashboards
from deploy.grafana.generate import rendered
from tests.operations.series import alerts, known_names, named
from tests.operations.traffic import Traffic, going_on
from tests.operations.watching import SCRAPE_SECONDS, Watch, wait_until, watching
from tests.processes import RunningService, running_service

PANELS = [
    pytest.param(panel, id=f"{dashboard.name}: {panel.title}")
    for dashboard in read_dashboards()
    for panel in dashboard.panels
    if panel.kind != "row"
]
RATE_INTERVAL_SECONDS = 8


@dataclass(frozen=True, slots=True)
class Watched:
    """What was seen of both services under traffic."""

    watch: Watch
    began: float
    ended: float

    def finite(self, target: Target) -> list[tuple[float, float]]:
        """All points of a query's series that are numbers, since the traffic began."""
        expr = target.filled(RATE_INTERVAL_SECONDS)
        found = self.watch.prometheus.between(expr, self.began, self.ended, SCRAPE_SECONDS)
        return [point for series in found for point in series.finite]


@pytest.fixture(scope="module")
def watched(embedder: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    arguments = ("--data-folder", str(folder / "data"), "--seal-rows", "8192", "--recall-probe-share", "0.5")
    with (
        running_service("index_service", folder, *arguments, "--recall-probe-cpu-share", "0.5") as index,
        watching(folder / "watch", embedder, index) as watch,
        Client(embedder.address, index.address) as client,
    ):
        began = time.time()
        traffic = Traffic(client, pictures=64, points=32_768)
        traffic.fill()
        with going_on(traffic.users()):
            wait_until(
                lambda: watch.prometheus.now("eyebright:recall:ratio5m") and time.time() - began > 12,
                "sampled queries are answered again",
                60,
            )
        yield Watched(watch, began, time.time())


def test_they_are_what_the_code_makes() -> None:
    written = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert written == rendered(), "run `make docs`"


@pytest.mark.parametrize("panel", PANELS)
def test_panels_are_of_series_that_exist(panel: Panel) -> None:
    assert panel.title
    assert panel.targets
    for target in panel.targets:
        assert named(target.filled(RATE_INTERVAL_SECONDS)) <= known_names()


def test_panels_neither_overlap_nor_leave_the_page() -> None:
    for dashboard in read_dashboards():
        taken: set[tuple[int, int]] = set()
        for panel in dashboard.panels:
            places = {
                (left, top)
                for left in range(panel.left, panel.left + panel.width)
                for top in range(panel.top, panel.top + panel.height)
            }
            assert panel.left + panel.width <= 24
            assert not places & taken, f"{dashboard.name}: {panel.title}"
            taken |= places


@pytest.mark.parametrize("panel", PANELS)
def test_panels_show_data(panel: Panel, watched: Watched) -> None:
    """Without exception: what counts faults is there from the start, and 0 in a healthy run."""
    assert not [target.expr for target in panel.targets if not watched.finite(target)]


def test_prometheus_has_loaded_every_rule(watched: Watched) -> None:
    loaded = watched.watch.prometheus.rules()
    assert {rule["name"] for rule in loaded if rule["type"] == "alerting"} == set(alerts())
    assert {rule["health"] for rule in loaded} == {"ok"}


def test_the_request_id_of_a_call_is_an_exemplar_of_its_bucket(watched: Watched, embedder: RunningService) -> None:
    expr = 'eyebright_rpc_latency_seconds_bucket{method="EmbedTexts"}'
    found = watched.watch.prometheus.exemplars(expr, watched.began, watched.ended)
    assert found
    log = embedder.log.read_text("utf-8")
    for exemplar in found:
        assert 0 < exemplar.value < 30
        assert watched.began <= exemplar.at <= watched.ended
        assert f'"request_id": "{exemplar.labels["request_id"]}"' in log
