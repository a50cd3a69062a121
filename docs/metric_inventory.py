"""Every metric that the services export, asked of the code that makes them, without starting a service.

Owns the list. Loads neither torch nor faiss, so that it can stand beside either.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric

from embedder_service.metrics import EmbedderMetrics
from index_service.metrics import IndexMetrics
from index_service.state_metrics import StateMetrics
from service_runtime.process_metrics import ProcessMetrics, state_build
from service_runtime.reloading import ReloadMetrics
from service_runtime.rpc_metrics import RpcMetrics

_SAMPLE_SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_sum", "_count"),
    "info": ("_info",),
    "gauge": ("",),
}


@dataclass(frozen=True, slots=True)
class ExportedMetric:
    """One metric."""

    name: str
    """As the code calls it."""
    kind: str
    """counter, gauge, histogram or info."""
    meaning: str
    labels: tuple[str, ...]
    """Without ``le`` of histograms, and what an info says."""

    @property
    def samples(self) -> tuple[str, ...]:
        """The names by which it is queried."""
        return tuple(self.name + suffix for suffix in _SAMPLE_SUFFIXES[self.kind])


def _of_both(registry: CollectorRegistry) -> None:
    RpcMetrics(registry)
    ProcessMetrics(registry, "service", str, str)
    ReloadMetrics(registry)
    state_build(registry, "engine", "0", "none")


def _of_the_index(registry: CollectorRegistry) -> None:
    metrics = IndexMetrics(registry)
    StateMetrics(registry, Path(), metrics.collections)


SERVICES: dict[str, Callable[[CollectorRegistry], object]] = {
    "Both services": _of_both,
    "Index service": _of_the_index,
    "Embedder service": EmbedderMetrics,
}
"""What makes the metrics of each."""


def exported(make: Callable[[CollectorRegistry], object]) -> list[ExportedMetric]:
    """The metrics that are made, in that order."""
    registry = CollectorRegistry(auto_describe=True)
    make(registry)
    found = {}
    # Only collectors know the labels of metrics that count nothing yet, and nothing public tells of collectors.
    for collector in dict.fromkeys(registry._names_to_collectors.values()):
        describe = getattr(collector, "describe", collector.collect)
        for family in describe():
            labels = getattr(family, "_labelnames", getattr(collector, "_labelnames", ()))
            found[family.name] = _exported(family, tuple(labels))
    return list(found.values())


def _exported(family: Metric, labels: tuple[str, ...]) -> ExportedMetric:
    return ExportedMetric(family.name, family.type, family.documentation, labels)
