"""``python -m benchmarks.dashboards``: the pictures of docs/dashboards.md, from a real Prometheus over real services.

Some minutes of traffic that rises and falls, with a bulk load, and with an index set by hand that loses recall, so that
there is something to see. Nothing is measured here that is said elsewhere.
"""

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

from eyebright_client import Client

from deploy.grafana.draw import Span, write_pictures
from tests.operations.traffic import POINTS, Traffic, going_on
from tests.operations.watching import watching
from tests.processes import running_service

_PICTURES, _POINTS = 400, 60_000
_SWELL_SECONDS = 120.0
_INDEX = ("--seal-rows", "8192", "--recall-probe-share", "0.5", "--recall-probe-cpu-share", "0.3")
_EMBEDDER = ("--canary-seconds", "10")
_RATE_INTERVAL_SECONDS = 15
_STEP_SECONDS = 2.0


def run(folder: Path, pictures: Path, minutes: float) -> None:
    """Start everything, let it work for so long, and draw what Prometheus saw."""
    data = ("--data-folder", str(folder / "data"))
    with (
        running_service("embedder_service", folder, *_EMBEDDER) as embedder,
        running_service("index_service", folder, *data, *_INDEX) as index,
        watching(folder / "watch", embedder, index) as watch,
        Client(embedder.address, index.address) as client,
    ):
        began = time.time()
        _work(client, 60 * minutes)
        span = Span(began, time.time(), _STEP_SECONDS, _RATE_INTERVAL_SECONDS)
        write_pictures(watch.prometheus, span, pictures)


def _work(client: Client, seconds: float) -> None:
    traffic = Traffic(client, pictures=_PICTURES, points=_POINTS)
    traffic.fill()
    began = time.monotonic()

    def intensity() -> float:
        return 2.5 + 1.8 * math.sin(2 * math.pi * (time.monotonic() - began) / _SWELL_SECONDS)

    with going_on(traffic.users(), intensity):
        time.sleep(0.45 * seconds)
        client.set_index("ivf-flat", name=POINTS)
        time.sleep(0.3 * seconds)
        client.set_index("auto", name=POINTS)
        time.sleep(0.25 * seconds)


def main() -> int:
    """Read the options, and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dashboards", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/images/dashboards"), help="folder of the pictures")
    parser.add_argument("--minutes", type=float, default=7.0, help="how long there is traffic (default: %(default)g)")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eyebright-dashboards-") as folder:
        run(Path(folder), chosen.output, chosen.minutes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
