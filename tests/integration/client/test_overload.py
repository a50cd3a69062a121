"""A service that has no room, and priorities."""

import asyncio
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from eyebright_client import AsyncClient, Client, InvalidArgument, ResourceExhausted, Timeouts
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.client.conftest import MakeClient
from tests.processes import RunningService, running_service


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An embedder that takes eight items in, and eight of bulk."""
    arguments = ("--max-items", "8", "--queue-limit", "16", "--text-cache-bytes", "0")
    with running_service("embedder_service", tmp_path_factory.mktemp("crowded"), *arguments) as service:
        yield service


def sample(service: RunningService, name: str, **labels: str) -> float:
    with urlopen(f"{service.metrics_url}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"eyebright_embedder_{name}" and labels.items() <= sample.labels.items()
    )


async def test_what_is_refused_for_want_of_room_is_repeated(crowded: RunningService) -> None:
    client = AsyncClient(crowded.address)
    before = sample(crowded, "rejected_items_total", tower="text", reason="items")
    jobs = (client.embed_texts([f"caption {call} {i}" for i in range(24)]) for call in range(12))
    for embeddings in await asyncio.gather(*jobs):
        assert not embeddings.errors
        assert len(embeddings) == 24
    assert sample(crowded, "rejected_items_total", tower="text", reason="items") > before
    await client.close()


async def test_a_timeout_too_short_for_another_try_raises_the_refusal(crowded: RunningService) -> None:
    client = AsyncClient(crowded.address, timeouts=Timeouts(embed=0.04))  # less than the shortest pause
    await client.model()
    jobs = [client.embed_texts([f"another {call} {i}" for i in range(8)]) for call in range(20)]
    outcomes = await asyncio.gather(*jobs, return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, ResourceExhausted)]
    assert refusals
    assert all((refusal.retry_after_seconds or 0) >= 0.05 for refusal in refusals)
    await client.close()


def test_the_priority_reaches_the_embedder(make_client: MakeClient, crowded: RunningService) -> None:
    client: Client = make_client(crowded.address)
    for priority in ("interactive", "bulk"):
        before = sample(crowded, "items_total", tower="text", priority=priority)
        client.embed_texts(["one", "two"], priority=priority)
        assert sample(crowded, "items_total", tower="text", priority=priority) == before + 2
    with pytest.raises(InvalidArgument, match="priority: expected 'interactive' or 'bulk', not 'urgent'"):
        client.embed_images(b"", priority="urgent")  # type: ignore[arg-type]


def test_indexing_is_bulk(
    make_client: MakeClient,
    embedder: RunningService,
    index: RunningService,
    collection: str,
    pictures: dict[str, bytes],
) -> None:
    before = sample(embedder, "items_total", tower="image", priority="bulk")
    make_client(embedder.address, index.address, collection=collection).index_images(pictures)
    assert sample(embedder, "items_total", tower="image", priority="bulk") == before + len(pictures)
