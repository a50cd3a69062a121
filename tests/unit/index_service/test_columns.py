"""Columns give the answers of a second opinion, however they came about: grown, spilled, written, merged."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service import column_file
from index_service.column_file import (
    ColumnBuilder,
    ColumnDamaged,
    ColumnTooLarge,
    Described,
    Source,
    read_column,
    read_field,
    write_column,
)
from index_service.columns import BlockColumns, Column, evaluate
from index_service.filters import (
    CAPTION,
    AllOf,
    Comparison,
    Document,
    Field,
    Filter,
    HasPrefix,
    IsIn,
    Kind,
    Operator,
    atoms_at,
    fields_of,
)
from tests.unit.index_service.filter_cases import documents, filters, oracle, stored

NAME = Field(("name",))
NONE = np.empty(0, np.int64)


def built(folder: Path, field: Field, held: list[tuple[str | None, Any]]) -> Column:
    builder = ColumnBuilder(folder)
    try:
        for document in held:
            builder.add(atoms_at(Document.parsed(*stored(document)), field))
        return written(folder, field, len(held), builder.sources())
    finally:
        builder.close()


def written(folder: Path, field: Field, rows: int, sources: list[Source]) -> Column:
    path = folder / f"{len(list(folder.iterdir()))}.column"
    described = Described("segment", field, rows)
    write_column(path, described, sources, NONE)
    return read_column(path, described)


def answer(columns: dict[Field, Column], where: Filter) -> list[bool]:
    return list(evaluate(where, lambda condition: columns[condition.field].mask(condition)))


def merged(folder: Path, field: Field, parts: list[Column], part_of: np.ndarray) -> Column:
    """Row i is the next row of part ``part_of[i]``."""
    sources = []
    for number, part in enumerate(parts):
        targets = np.flatnonzero(part_of == number)
        sources.append(Source.of(part, np.arange(len(targets)), targets))
    return written(folder, field, len(part_of), sources)


@settings(max_examples=250, deadline=None)
@given(filters, st.lists(documents, min_size=1, max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_any_filter_over_any_documents(
    where: Filter, held: list[tuple[str | None, Any]], run_values: int, random: Any
) -> None:
    expected = [oracle(where, *document) for document in held]
    block = BlockColumns()
    captions = np.array([stored(document)[0] for document in held], dtype=object)
    metadata = np.array([stored(document)[1] for document in held], dtype=object)
    for rows in range(1, len(held) + 1):
        assert list(block.mask(where, captions[:rows], metadata[:rows])) == expected[:rows]
    part_of = np.array([random.randrange(2) for _ in held])
    halves = [[document for document, own in zip(held, part_of, strict=True) if own == half] for half in range(2)]
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(column_file, "RUN_VALUES", run_values)
        folder, named = Path(name), sorted(fields_of(where), key=lambda field: field.keys)
        assert answer({field: built(folder, field, held) for field in named}, where) == expected
        parts = {field: [built(folder, field, half) for half in halves] for field in named}
        again = {field: merged(folder, field, parts[field], part_of) for field in named}
        assert answer(again, where) == expected
        grown = block.grown(set(named), captions, metadata)
        every = np.arange(len(held))
        sealed = {field: written(folder, field, len(held), [Source.of(grown[field], every, every)]) for field in named}
        assert answer(sealed, where) == expected


@pytest.mark.parametrize(("distinct", "width"), [(3, "uint8"), (1_000, "uint16"), (70_000, "uint32")])
def test_codes_are_as_narrow_as_can_be_and_dictionaries_of_any_size_are_sorted(
    tmp_path: Path, distinct: int, width: str
) -> None:
    """70,000 values are more than one run."""
    names = [f"name {(number * 7_919) % distinct:06d}" for number in range(max(distinct, 2_000))]
    column = built(tmp_path, NAME, [(None, {"name": own}) for own in names])
    assert column.codes.first.dtype == np.dtype(width)
    assert len(column.strings) == distinct
    wanted = frozenset(names[:50:7]) | {"nobody"}
    for condition, expected in (
        (Comparison(NAME, Operator.EQUAL, Kind.STRING, names[5]), [own == names[5] for own in names]),
        (Comparison(NAME, Operator.LESS, Kind.STRING, names[5]), [own < names[5] for own in names]),
        (HasPrefix(NAME, "name 0000"), [own.startswith("name 0000") for own in names]),
        (IsIn(NAME, wanted, frozenset(), frozenset()), [own in wanted for own in names]),
    ):
        assert column.mask(condition).tolist() == expected


def test_numbers_and_strings_of_many_runs_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_file, "RUN_VALUES", 7)
    values: list[Any] = [number // 3 if number % 2 else f"s{number // 5}" for number in range(200)]
    column = built(tmp_path, NAME, [(None, {"name": value}) for value in values])
    numbers = [column.numbers[place] for place in range(len(column.numbers))]
    strings = [column.strings[place] for place in range(len(column.strings))]
    assert numbers == sorted({value for value in values if isinstance(value, int)})
    assert strings == sorted({value for value in values if isinstance(value, str)})
    for condition, expected in (
        (Comparison(NAME, Operator.LESS, Kind.NUMBER, 40), [isinstance(own, int) and own < 40 for own in values]),
        (
            Comparison(NAME, Operator.GREATER, Kind.STRING, "s2"),
            [isinstance(own, str) and own > "s2" for own in values],
        ),
    ):
        assert column.mask(condition).tolist() == expected


def test_a_column_past_its_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_file, "MOST_DICTIONARY_BYTES", 1_000)
    built(tmp_path, CAPTION, [("x" * 100, None)] * 100)
    with pytest.raises(ColumnTooLarge):
        built(tmp_path, CAPTION, [(f"{number:0100d}", None) for number in range(100)])
    monkeypatch.setattr(column_file, "RUN_VALUES", 2)
    with pytest.raises(ColumnTooLarge):
        built(tmp_path, CAPTION, [(f"{number:0100d}", None) for number in range(100)])


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    built(tmp_path, CAPTION, [("a", None), ("b", {"n": 1}), (None, None)])
    path, described = tmp_path / "0.column", Described("segment", CAPTION, 3)
    sound = path.read_bytes()
    assert read_field(path) == CAPTION
    for place in range(len(sound)):
        damaged = tmp_path / f"damaged-{place}"
        damaged.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        with pytest.raises(ColumnDamaged):
            read_column(damaged, described)
    for content in (b"", sound[:10], sound[:-1]):
        path.write_bytes(content)
        with pytest.raises(ColumnDamaged):
            read_column(path, described)


def test_a_column_of_something_else_is_refused(tmp_path: Path) -> None:
    built(tmp_path, CAPTION, [("a", None)])
    for other in (
        Described("another", CAPTION, 1),
        Described("segment", NAME, 1),
        Described("segment", CAPTION, 2),
        Described("segment", CAPTION, 1, format=2),
    ):
        with pytest.raises(ColumnDamaged, match="expected"):
            read_column(tmp_path / "0.column", other)


def test_a_block_answers_for_the_rows_that_a_search_saw_whatever_others_have_seen_since() -> None:
    block = BlockColumns()
    captions, metadata = np.array(["a", "b", "a"], dtype=object), np.array([b'{"name": "n"}'] * 3, dtype=object)
    both = AllOf((HasPrefix(CAPTION, "a"), HasPrefix(NAME, "n")))
    assert block.mask(HasPrefix(NAME, "n"), captions, metadata).tolist() == [True] * 3
    assert block.mask(both, captions[:2], metadata[:2]).tolist() == [True, False]
    assert block.mask(both, captions, metadata).tolist() == [True, False, True]


def test_a_block_forgets_the_fields_used_longest_ago() -> None:
    block = BlockColumns()
    captions, metadata = np.array(["a"], dtype=object), np.array([json.dumps({}).encode()], dtype=object)
    for number in range(100):
        block.grown({Field((str(number),))}, captions, metadata)
    assert block.fields == {Field((str(number),)) for number in range(36, 100)}
