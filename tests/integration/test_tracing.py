"""One trace from the SDK through both services, as a real collector gets it from three processes."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from eyebright_client import AsyncClient, Client, NotFound, SearchResult
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, format_trace_id, use_span

from tests.integration.client.facade import picture, png
from tests.otlp_collector import CLIENT, SERVER, Collector, ReceivedSpan, running_collector
from tests.processes import running_service

EMBEDDER, INDEX = "eyebright.embedder.v1.EmbedderService", "eyebright.index.v1.IndexService"
SHOP = "shop"
"""The application that uses the SDK."""

SEARCHES = ("sync", "async")
BY_HAND = f"{uuid.uuid4().hex}", "00f067aa0ba902b7"
"""The trace and the span of a caller without an SDK."""

NOT_SAMPLED = 0x4BF92F3577B34DA6A3CE929D0E0E4736
COLLECTION = "traced"


@dataclass
class Recorded:
    """What was called, and what the collector got of it."""

    collector: Collector
    traces: dict[str, str] = field(default_factory=dict)
    """Ids, by what was done in them."""
    results: dict[str, SearchResult] = field(default_factory=dict)
    logs: list[dict[str, object]] = field(default_factory=list)

    def of(self, name: str) -> list[ReceivedSpan]:
        return self.collector.trace(self.traces[name])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """Calls of all kinds. The services have stopped by the time that this is read, so that every span has come."""
    folder = tmp_path_factory.mktemp("traced")
    with running_collector() as collector:
        provider = TracerProvider(resource=Resource.create({"service.name": SHOP}))
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(collector.endpoint, insecure=True)))
        made = Recorded(collector)
        where = ("--tracing-endpoint", collector.endpoint)
        with (
            running_service("embedder_service", folder, "--warm-up-sizes", "1", *where) as embedder,
            running_service("index_service", folder, "--data-folder", str(folder / "data"), *where) as index,
        ):
            addresses = (embedder.address, index.address)
            with Client(*addresses, collection=COLLECTION, tracer_provider=provider) as client:
                _call_all(client, provider, made)
            asyncio.run(_search_async(addresses, provider, made))
            _call_by_hand(index.address)
            assert embedder.terminate() == 0
            assert index.terminate() == 0
            for log in {embedder.log, index.log}:
                made.logs += _lines(log)
        provider.shutdown()
        yield made


def _call_all(client: Client, provider: TracerProvider, made: Recorded) -> None:
    tracer = provider.get_tracer("shop")

    def within(name: str, call: Callable[[], object]) -> None:
        with tracer.start_as_current_span(name) as span:
            made.traces[name] = format_trace_id(span.get_span_context().trace_id)
            call()

    client.create_collection(shard_count=2)
    images = {f"p{number}": png(picture(number)) for number in range(8)}
    within("index", lambda: client.index_images(images))
    within("sync", lambda: made.results.update(sync=client.search("a blue square", k=3)))
    within("image", lambda: made.results.update(image=client.search(image=images["p1"], k=1)))
    within("cached", lambda: client.search("a blue square", k=3))
    within("write", lambda: client.upsert([f"v{n}" for n in range(8)], _unit_vectors(client.model().dimension)))
    with pytest.raises(NotFound):
        within("missing", lambda: client.search("a blue square", k=3, collection="missing"))
    caller = SpanContext(NOT_SAMPLED, 0x00F067AA0BA902B7, is_remote=False, trace_flags=TraceFlags(0))
    with use_span(NonRecordingSpan(caller)):
        client.search("a caption that nobody has embedded", k=3)


def _unit_vectors(dimension: int) -> np.ndarray:
    return np.eye(8, dimension, dtype=np.float32)


async def _search_async(addresses: tuple[str, str], provider: TracerProvider, made: Recorded) -> None:
    async with AsyncClient(*addresses, collection=COLLECTION, tracer_provider=provider) as client:
        with provider.get_tracer("shop").start_as_current_span("async") as span:
            made.traces["async"] = format_trace_id(span.get_span_context().trace_id)
            made.results["async"] = await client.search("a green circle", k=3)


def _call_by_hand(address: str) -> None:
    """A caller that knows nothing of the SDK; and one that traces nothing, whose call begins a trace of its own."""
    with grpc.insecure_channel(address) as channel:
        method: Any = channel.unary_unary(f"/{INDEX}/ListCollections")
        method(b"", metadata=(("traceparent", f"00-{BY_HAND[0]}-{BY_HAND[1]}-01"),))
        method(b"", metadata=(("x-request-id", "alone"), ("traceparent", "00-nonsense")))


def _lines(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def _children(spans: Sequence[ReceivedSpan], parent: ReceivedSpan) -> list[ReceivedSpan]:
    return [span for span in spans if span.parent_id == parent.span_id]


def _named(spans: Sequence[ReceivedSpan], name: str, kind: int | None = None) -> ReceivedSpan:
    (found,) = [span for span in spans if span.name == name and kind in (None, span.kind)]
    return found


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_one_trace_through_three_processes(recorded: Recorded, name: str) -> None:
    spans = recorded.of(name)
    search = _named(spans, "search")
    assert (search.service, search.parent_id) == (SHOP, _named(spans, name).span_id)
    for service, method, stages in (
        (EMBEDDER, "EmbedTexts", {"tokenise", "queue", "forward"}),
        (INDEX, "Search", {"queue", "shard_search", "merge", "read_records"}),
    ):
        called = _named(spans, f"{service}/{method}", CLIENT)
        assert (called.service, called.parent_id) == (SHOP, search.span_id)
        served = _named(spans, f"{service}/{method}", SERVER)
        assert (served.service, served.parent_id) == (service, called.span_id)
        assert {span.name for span in _children(spans, served)} == stages
        for span in (called, served):
            assert span.attributes["rpc.method"] == f"{service}/{method}"
            assert span.attributes["rpc.response.status_code"] == "OK"
            assert span.attributes["eyebright.request_id"] == called.attributes["eyebright.request_id"]
        for stage in _children(spans, served):
            assert stage.service == service
            assert served.start_ns <= stage.start_ns <= stage.end_ns <= served.end_ns, stage.name
    assert not [span for span in spans if span.is_error]


@pytest.mark.parametrize("name", SEARCHES)
def test_stages_take_as_long_as_the_answer_says(recorded: Recorded, name: str) -> None:
    spans, stages = recorded.of(name), recorded.results[name].stages
    served = {span.service: span for span in spans if span.kind == SERVER}
    of_embedder = _children(spans, _named(spans, f"{EMBEDDER}/EmbedTexts", SERVER))
    of_index = _children(spans, served[INDEX])
    for span, seconds in (
        (_named(of_embedder, "tokenise"), stages.decode_seconds),
        (_named(of_embedder, "queue"), stages.queue_seconds),
        (_named(of_embedder, "forward"), stages.forward_seconds),
        (_named(of_index, "shard_search"), stages.shard_search_seconds),
    ):
        assert span.seconds == pytest.approx(seconds, abs=2e-6), span.name
    assert _named(of_embedder, "forward").attributes["eyebright.batch_size"] == 1
    merged = _named(of_index, "merge").seconds + _named(of_index, "read_records").seconds
    assert merged == pytest.approx(stages.merge_seconds, abs=4e-6)


def test_a_picture_is_decoded_and_a_known_caption_goes_through_no_stage(recorded: Recorded) -> None:
    spans = recorded.of("image")
    served = _named(spans, f"{EMBEDDER}/EmbedImages", SERVER)
    assert {span.name for span in _children(spans, served)} == {"decode", "queue", "forward"}
    spans = recorded.of("cached")
    assert not _children(spans, _named(spans, f"{EMBEDDER}/EmbedTexts", SERVER))


def test_streams_are_in_the_trace_of_what_opened_them(recorded: Recorded) -> None:
    spans = recorded.of("index")
    root = _named(spans, "index_images")
    for service, method, stages in (
        (EMBEDDER, "EmbedStream", {"decode", "queue", "forward"}),
        (INDEX, "UpsertStream", {"queue", "commit"}),
    ):
        called = _named(spans, f"{service}/{method}", CLIENT)
        served = _named(spans, f"{service}/{method}", SERVER)
        assert (called.parent_id, served.parent_id) == (root.span_id, called.span_id)
        assert {span.name for span in _children(spans, served)} == stages
        assert called.attributes["rpc.response.status_code"] == "OK"
        assert served.attributes["rpc.response.status_code"] == "OK"


def test_shards_that_are_written_by_other_threads_say_so_in_the_same_trace(recorded: Recorded) -> None:
    spans = recorded.of("write")
    served = _named(spans, f"{INDEX}/Upsert", SERVER)
    assert [span.name for span in _children(spans, served)].count("commit") == 2


def test_errors_are_marked(recorded: Recorded) -> None:
    spans = recorded.of("missing")
    search = _named(spans, "search")
    failed = [span for span in spans if span.kind == CLIENT and span.is_error]
    assert [span.attributes["rpc.response.status_code"] for span in failed] == ["NOT_FOUND"]
    assert failed[0].attributes["error.type"] == "NOT_FOUND"
    assert "'missing'" in failed[0].message
    assert search.is_error
    assert search.attributes["error.type"] == "NotFound"
    (served,) = [span for span in spans if span.parent_id == failed[0].span_id]
    assert (served.service, served.attributes["error.type"]) == (INDEX, "NOT_FOUND")
    assert not served.is_error, "what a caller does wrong is no fault of the service"


def test_a_caller_that_does_not_sample_is_followed(recorded: Recorded) -> None:
    trace_id = format_trace_id(NOT_SAMPLED)
    assert not recorded.collector.trace(trace_id)
    calls = [line["method"] for line in recorded.logs if line.get("trace_id") == trace_id and "method" in line]
    assert sorted(map(str, calls)) == ["EmbedTexts", "Search"], "its calls did arrive as part of its trace"


def test_any_caller_may_send_a_traceparent(recorded: Recorded) -> None:
    trace_id, span_id = BY_HAND
    (served,) = recorded.collector.trace(trace_id)
    assert (served.name, served.parent_id) == (f"{INDEX}/ListCollections", span_id)
    (alone,) = [span for span in recorded.collector.spans() if span.attributes.get("eyebright.request_id") == "alone"]
    assert (alone.kind, alone.parent_id) == (SERVER, "")


def test_log_lines_carry_the_trace(recorded: Recorded) -> None:
    calls = [line for line in recorded.logs if line.get("trace_id") == recorded.traces["sync"]]
    assert {line["method"] for line in calls} == {"EmbedTexts", "Search"}
    assert len({line["request_id"] for line in calls}) == 1


def test_nothing_but_calls_is_sent(recorded: Recorded) -> None:
    """No health check, nor what compaction or the canary do: each span belongs to a call or to the application."""
    spans = recorded.collector.spans()
    begun = {span.name.rpartition("/")[2] for span in spans if not span.parent_id and span.service != SHOP}
    assert begun == {"ListCollections"}
    assert {span.service for span in spans} == {SHOP, EMBEDDER, INDEX}
