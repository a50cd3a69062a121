import threading

import pytest
from prometheus_client import CollectorRegistry

from index_service.collection_labels import MOST_NAMED, OTHERS
from index_service.metrics import IndexMetrics


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> IndexMetrics:
    return IndexMetrics(registry)


def queued(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    """Requests that wait, and those that have waited."""
    return (
        registry.get_sample_value("eyebright_index_queued", {"queue": "request"}),
        registry.get_sample_value("eyebright_index_stage_latency_seconds_count", {"stage": "queue"}),
    )


def test_a_request_waits_until_it_begins(registry: CollectorRegistry, metrics: IndexMetrics) -> None:
    with metrics.queued("request") as begin:
        assert queued(registry) == (1, 0)
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
        assert queued(registry) == (0, 1)
    assert queued(registry) == (0, 1)


def test_a_request_that_is_given_up_waits_no_longer(registry: CollectorRegistry, metrics: IndexMetrics) -> None:
    with pytest.raises(RuntimeError), metrics.queued("request"):
        assert queued(registry) == (1, 0)
        raise RuntimeError
    assert queued(registry) == (0, 0)


def test_recall_of_many_collections_makes_few_series(registry: CollectorRegistry, metrics: IndexMetrics) -> None:
    names = [f"pets-{number}" for number in range(MOST_NAMED + 3)]
    for name in names:
        metrics.collections.add(name)
        metrics.observe_recall(name, "text", "fastscan", 1.0)

    def count(collection: str) -> float | None:
        labels = {"collection": collection, "modality": "text", "recipe": "fastscan"}
        return registry.get_sample_value("eyebright_index_probe_recall_count", labels)

    assert [count(name) for name in names] == [1] * MOST_NAMED + [None] * 3
    assert count(OTHERS) == 3
    for name in (names[0], names[-1]):
        metrics.forget_collection(name, [("text", "fastscan")])
    assert (count(names[0]), count(names[1]), count(OTHERS)) == (None, 1, 3)
