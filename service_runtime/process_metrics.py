"""Metrics of the process, whichever the service: whether it is ready and alive, its memory, its build.

Owns their names. What a service computes with, and on which instructions, it says itself.
"""

import platform
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version

from prometheus_client import CollectorRegistry, Info, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service_runtime.memory import limit_bytes, resident_bytes

_DISTRIBUTION = "eyebright"


class ProcessMetrics(Collector):
    """Looked at whenever the metrics are read."""

    def __init__(
        self, registry: CollectorRegistry, service: str, obstacle: Callable[[], str], ailment: Callable[[], str]
    ) -> None:
        """``obstacle`` and ``ailment`` are empty while the service is ready, and alive."""
        self._service = service
        self._obstacle = obstacle
        self._ailment = ailment
        ProcessCollector(registry=registry)
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """The metrics without their values: asking for those would log an ailment."""
        yield from self._families().values()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics as they are now."""
        families = self._families()
        families["ready"].add_metric([self._service], not self._obstacle())
        families["alive"].add_metric([self._service], not self._ailment())
        for kind, size in resident_bytes().items():
            families["resident"].add_metric([kind], size)
        limit = limit_bytes()
        if limit is not None:
            families["limit"].add_metric([], limit)
        yield from families.values()

    @staticmethod
    def _families() -> dict[str, GaugeMetricFamily]:
        return {
            "ready": GaugeMetricFamily(
                "eyebright_ready",
                "1 while calls should be sent here, as /readyz and gRPC health say; else 0.",
                labels=["service"],
            ),
            "alive": GaugeMetricFamily(
                "eyebright_alive",
                "1 while the process need not be ended and started again, as /livez says; else 0.",
                labels=["service"],
            ),
            "resident": GaugeMetricFamily(
                "eyebright_memory_resident_bytes",
                "Bytes in memory: anonymous (the process's own), file (mapped files, which the system can take back), "
                "shared. Linux only.",
                labels=["kind"],
            ),
            "limit": GaugeMetricFamily(
                "eyebright_memory_limit_bytes",
                "Bytes that the process may hold: the least limit of its control groups, or the machine's memory.",
            ),
        }


def state_build(registry: CollectorRegistry, engine: str, engine_version: str, simd: str) -> None:
    """Say with what a service computes: a library, its version, and the instructions that it chose on this machine."""
    Info(
        "eyebright_build",
        "What runs here: version, python, engine (the library that computes), engine_version, simd (the instructions "
        "that it uses on this machine, or the accelerator).",
        registry=registry,
    ).info(
        {
            "version": distribution_version(),
            "python": platform.python_version(),
            "engine": engine,
            "engine_version": engine_version,
            "simd": simd,
        }
    )


def distribution_version() -> str:
    """Version of what is installed, of which this package is a part."""
    try:
        return version(_DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
