import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry

from service_runtime.process_metrics import ProcessMetrics, state_build


def test_ready_and_alive_follow_their_reasons() -> None:
    reasons = {"obstacle": "starting", "ailment": ""}
    registry = CollectorRegistry()
    ProcessMetrics(registry, "test.Echo", lambda: reasons["obstacle"], lambda: reasons["ailment"])

    def told() -> list[float | None]:
        names = ("eyebright_ready", "eyebright_alive")
        return [registry.get_sample_value(name, {"service": "test.Echo"}) for name in names]

    assert told() == [0, 1]
    reasons.update(obstacle="", ailment="stands still")
    assert told() == [1, 0]


def test_no_reason_is_asked_for_before_metrics_are_read() -> None:
    def never() -> str:
        raise AssertionError("asked for")

    ProcessMetrics(CollectorRegistry(auto_describe=True), "test.Echo", never, never)


def test_memory_and_files_are_told() -> None:
    registry = CollectorRegistry()
    ProcessMetrics(registry, "test.Echo", str, str)
    anonymous = registry.get_sample_value("eyebright_memory_resident_bytes", {"kind": "anonymous"}) or 0
    assert 0 < anonymous < (registry.get_sample_value("eyebright_memory_limit_bytes") or 0)
    assert (registry.get_sample_value("process_open_fds") or 0) > 2


def test_the_build_is_told() -> None:
    registry = CollectorRegistry()
    state_build(registry, "abacus", "7", "beads")
    labels = {
        "version": version("eyebright"),
        "python": platform.python_version(),
        "engine": "abacus",
        "engine_version": "7",
        "simd": "beads",
    }
    assert registry.get_sample_value("eyebright_build_info", labels) == 1
