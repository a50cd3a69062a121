"""``python -m deploy.grafana.generate`` writes the dashboards; with ``--check`` it only says which would change.

Owns the list of dashboards and the files' names.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana import capacity, embedder, index, latency, recall

FOLDER = Path(__file__).parent / "dashboards"

_DASHBOARDS = {
    "latency": latency.dashboard,
    "recall": recall.dashboard,
    "embedder": embedder.dashboard,
    "index": index.dashboard,
    "capacity": capacity.dashboard,
}


def rendered() -> dict[str, str]:
    """The text of each file, by its name."""
    return {f"{name}.json": _render(make()) for name, make in _DASHBOARDS.items()}


def _render(made: Dashboard) -> str:
    built = made.build()
    for number, panel in enumerate(built.panels or (), 1):
        panel.id_val = number  # Grafana tells panels apart by it
    return JSONEncoder(indent=2, sort_keys=True).encode(built) + "\n"


def main() -> int:
    """Write the files, or compare them; returns the exit status of the process."""
    stale = []
    for name, text in rendered().items():
        path = FOLDER / name
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(name)
            if "--check" not in sys.argv:
                FOLDER.mkdir(exist_ok=True)
                path.write_text(text, "utf-8")
    if stale:
        sys.stdout.write(f"{'not up to date' if '--check' in sys.argv else 'written'}: {', '.join(stale)}\n")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
