"""Any filter that the contract allows finds, over the wire, the records for which a second opinion says it holds."""

import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eyebright.index.v1 import filter_pb2
from eyebright.index.v1.index_service_pb2_grpc import IndexServiceStub
from hypothesis import HealthCheck, assume, given, seed, settings

from index_service.filters import AllOf, AnyOf, Comparison, Exists, Field, Filter, HasPrefix, IsIn, IsNull, Not
from tests.integration.index_service import calls
from tests.processes import running_service
from tests.unit.index_service.filter_cases import KEYS, NUMBERS, STRINGS, filters, oracle

NAME = "filtered"
ROWS = 500
Document = tuple[str | None, Any]


def drawn_value(draw: random.Random, depth: int) -> Any:
    match draw.randrange(6 if depth else 4):
        case 0:
            return draw.choice([None, True, False])
        case 1:
            return draw.choice(NUMBERS)
        case 4:
            return [drawn_value(draw, depth - 1) for _ in range(draw.randrange(4))]
        case 5:
            return {draw.choice(KEYS): drawn_value(draw, depth - 1) for _ in range(draw.randrange(3))}
    return draw.choice(STRINGS)


def drawn_document(draw: random.Random) -> Document:
    caption = draw.choice([None, *(text for text in STRINGS if text and expressible(text))])
    return caption, {draw.choice(KEYS): drawn_value(draw, 2) for _ in range(draw.randrange(4))}


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[IndexServiceStub, dict[str, Document]]]:
    """Records, half of them in a segment, half in memory."""
    folder: Path = tmp_path_factory.mktemp("filters")
    arguments = ("--data-folder", str(folder / "data"), "--seal-rows", "256")
    draw = random.Random(5)
    documents = {f"{row}": drawn_document(draw) for row in range(ROWS)}
    with running_service("index_service", folder, *arguments) as service, calls.connected(service.address) as stub:
        calls.create(stub, NAME, shard_count=1)
        request = calls.upsert_request(NAME, list(documents), calls.random_vectors(ROWS))
        for record, (caption, metadata) in zip(request.records, documents.values(), strict=True):
            record.metadata_json = json.dumps(metadata).encode()
            if caption is not None:
                record.caption = caption
        assert not any(status.code for status in stub.Upsert(request).statuses)
        yield stub, documents


def check(stub: IndexServiceStub, documents: dict[str, Document], where: Filter) -> None:
    found = calls.search(stub, NAME, calls.random_vectors(1), k=ROWS, filter=written(where)).results[0].ids
    assert set(found) == {own for own, document in documents.items() if oracle(where, *document)}
    assert len(found) == len(set(found))


BOUNDS = settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))


def test_filters_find_what_they_mean(collection: tuple[IndexServiceStub, dict[str, Document]]) -> None:
    @settings(BOUNDS, max_examples=150, derandomize=True)
    @given(filters)
    def each(where: Filter) -> None:
        assume(all_expressible(where))
        check(*collection, where)

    each()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_filters_find_what_they_mean_whatever_they_are(
    collection: tuple[IndexServiceStub, dict[str, Document]],
) -> None:
    number = int(os.environ.get("EYEBRIGHT_FUZZ_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_FUZZ_SEED={number}\n")

    @seed(number)
    @settings(BOUNDS, max_examples=5_000)
    @given(filters)
    def each(where: Filter) -> None:
        assume(all_expressible(where))
        check(*collection, where)

    each()


def expressible(value: Any) -> bool:
    """Whether a message can say it: no half of a surrogate pair, no integer past 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "ignore").decode() == value
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def all_expressible(where: Filter) -> bool:
    match where:
        case AllOf(parts) | AnyOf(parts):
            return all(map(all_expressible, parts))
        case Not(negated):
            return all_expressible(negated)
        case Comparison(value=value) | HasPrefix(prefix=value):
            return expressible(value)
        case IsIn(_, strings, numbers, _):
            return all(map(expressible, (*strings, *numbers)))
    return True


def written(where: Filter) -> filter_pb2.Filter:
    """A filter as its message."""
    match where:
        case AllOf(parts):
            return filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=map(written, parts)))
        case AnyOf(parts):
            return filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=map(written, parts)))
        case Not(negated):
            return filter_pb2.Filter(negation=written(negated))
    field = written_field(where.field)
    match where:
        case Comparison(_, operator, _, value):
            name = f"COMPARISON_OPERATOR_{operator.name}"
            comparison = filter_pb2.Comparison(field=field, operator=name, value=written_value(value))
            return filter_pb2.Filter(comparison=comparison)
        case IsIn(_, strings, numbers, booleans):
            values = map(written_value, (*strings, *numbers, *booleans))
            return filter_pb2.Filter(is_in=filter_pb2.IsIn(field=field, values=values))
        case Exists():
            return filter_pb2.Filter(exists=filter_pb2.Exists(field=field))
        case IsNull():
            return filter_pb2.Filter(is_null=filter_pb2.IsNull(field=field))
        case HasPrefix(_, prefix):
            return filter_pb2.Filter(has_prefix=filter_pb2.HasPrefix(field=field, prefix=prefix))


def written_field(field: Field) -> filter_pb2.FilterField:
    if not field.keys:
        return filter_pb2.FilterField(caption=filter_pb2.CaptionPlace())
    return filter_pb2.FilterField(metadata=filter_pb2.MetadataPlace(keys=field.keys))


def written_value(value: Any) -> filter_pb2.FilterValue:
    kinds = {bool: "bool_value", int: "integer_value", float: "double_value", str: "string_value"}
    return filter_pb2.FilterValue(**{kinds[type(value)]: value})
