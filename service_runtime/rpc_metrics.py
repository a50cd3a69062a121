"""Metrics of calls, whichever the service.

Owns the latency histogram and the number of calls in flight.
"""

from prometheus_client import CollectorRegistry, Gauge, Histogram

LATENCY_BUCKETS = (
    0.00025, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.008, 0.012, 0.016, 0.024, 0.032, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 30.0,
)  # fmt: skip
"""Upper bounds in seconds, 0.25 ms to 30 s, fine enough that a quantile is off by less than half."""


class RpcMetrics:
    """What is counted of every call."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.latency_seconds = Histogram(
            "eyebright_rpc_latency_seconds",
            "Time from the arrival of a call to its last answer, in seconds.",
            ("service", "method", "code"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "eyebright_rpc_in_flight",
            "Calls that are being answered.",
            ("service", "method"),
            registry=registry,
        )
