"""``python -m docs.generate`` writes the pages that follow from the code; ``--check`` only says which would change.

Owns what they look like.
"""

import sys
from pathlib import Path

from docs.metric_inventory import SERVICES, ExportedMetric, exported
from index_service.collection_labels import MOST_NAMED, OTHERS
from service_runtime.rpc_metrics import LATENCY_BUCKETS

_FOLDER = Path(__file__).parent

_LABELS = {
    "service": "full names of the gRPC services that the process serves, health and reflection among them",
    "method": "their methods; a method that there is not is not counted",
    "code": "gRPC status codes, 17 at most",
    "what": "the files that are read again: TLS certificate, client CA, tokens",
    "kind": "as the metric says",
    "stage": "as the metric says",
    "queue": "as the metric says",
    "reason": "as the metric says",
    "work": "as the metric says",
    "recipe": "the six recipes of an index",
    "modality": "text, image, record, unspecified",
    "collection": f"names of collections, the first {MOST_NAMED} that there are; all others are `{OTHERS}` together",
    "tower": "text, image",
    "priority": "interactive, bulk",
    "batch": "powers of two up to the batch limit",
    "result": "as the metric says",
}
"""What bounds the values of each label."""

_BUCKETS = f"{len(LATENCY_BUCKETS)} buckets from {LATENCY_BUCKETS[0] * 1000:g} ms to {LATENCY_BUCKETS[-1]:g} s"
_HEAD = f"""# Metrics

<!-- Written by python -m docs.generate; do not edit. -->

Each service tells them at `/metrics` of its plain HTTP port (`--metrics-port`; 9102 for the index, 9101 for the
embedder). Histograms are queried by `_bucket`, `_sum` and `_count`. Where there is no value, nothing was counted yet,
or this system does not tell.

Seconds are counted in {_BUCKETS}, so close together that a quantile read from
them is off by less than half.

**From a slow call to its log line.** To a reader that asks for OpenMetrics, as Prometheus does, each bucket of
`eyebright_rpc_latency_seconds` also tells the `request_id` of the last call that fell into it (an exemplar): the one
that the caller sent, or got, as `x-request-id`, and that stands in the service's log line. Prometheus keeps exemplars
only when it is started with `--enable-feature=exemplar-storage`; Grafana then shows them as dots in panels of latency.
"""


def metrics_page() -> str:
    """docs/metrics.md."""
    parts = [_HEAD]
    used: set[str] = set()
    for title, make in SERVICES.items():
        metrics = exported(make)
        used.update(label for metric in metrics for label in metric.labels)
        rows = "\n".join(_row(metric) for metric in metrics)
        parts.append(f"## {title}\n\n| metric | kind | labels | what it tells |\n|---|---|---|---|\n{rows}\n")
    unknown = used - set(_LABELS)
    if unknown:
        raise ValueError(f"expected a word on what bounds each label, but there is none on {sorted(unknown)}")
    bounds = "\n".join(f"| `{label}` | {_LABELS[label]} |" for label in _LABELS if label in used)
    parts.append(
        "## Labels\n\nNothing that a caller sends becomes a label, but for names of collections.\n\n"
        f"| label | values |\n|---|---|\n{bounds}\n"
    )
    return "\n".join(parts)


def _row(metric: ExportedMetric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    name = metric.name if metric.kind == "histogram" else metric.samples[0]
    return f"| `{name}` | {metric.kind} | {labels} | {metric.meaning} |"


PAGES = {"metrics.md": metrics_page}


def main() -> int:
    """Write the pages, or compare them; returns the exit status of the process."""
    stale = []
    for name, make in PAGES.items():
        path, page = _FOLDER / name, make()
        if not path.exists() or path.read_text("utf-8") != page:
            stale.append(f"docs/{name}")
            if "--check" not in sys.argv:
                path.write_text(page, "utf-8")
    if stale:
        sys.stdout.write(f"{'not up to date' if '--check' in sys.argv else 'written'}: {', '.join(stale)}\n")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
