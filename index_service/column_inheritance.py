"""The columns of a new segment, made of those of the blocks or segments whose rows it takes over.

Owns which fields a new segment has columns of: those that what it is made from has been filtered by. So the columns on
disk remember what a collection is filtered by, and no filter waits for what was known.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

from index_service.column_file import ColumnTooLarge, Source
from index_service.columns import Column
from index_service.filters import Field
from index_service.memtable import BlockView
from index_service.record_store import StoreError
from index_service.segment import Segment
from index_service.segment_columns import ShardColumns

_logger = logging.getLogger("eyebright.columns")


def inherit_from_blocks(
    columns: ShardColumns, segment: Segment, blocks: Sequence[BlockView], others: Iterable[Segment]
) -> None:
    """Columns of the fields that the blocks or the shard's ``others`` have columns of."""
    fields = columns.fields(others).union(*(block.columns.fields for block in blocks))
    grown = [block.columns.grown(fields, block.captions, block.metadata) for block in blocks]
    taken = [_taken(block.numbers, segment.numbers) for block in blocks]
    for field in fields:
        sources = [Source.of(own[field], *rows) for own, rows in zip(grown, taken, strict=True)]
        _try(segment, partial(columns.inherit, segment, field, sources, np.empty(0, np.int64)))


def inherit_from_segments(columns: ShardColumns, segment: Segment, merging: Sequence[Segment]) -> None:
    """Columns of the fields that any of the merged segments has a column of."""
    taken = [_taken(old.numbers, segment.numbers) for old in merging]
    lacking: list[Field] = []
    for field in columns.fields(merging):
        found = [columns.column(old, field) for old in merging]
        known = [column for column in found if column is not None]
        if len(known) < len(found):
            lacking.append(field)
            continue
        sources = [Source.of(column, *rows) for column, rows in zip(known, taken, strict=True)]
        gone = np.concatenate([_gone(column, *rows) for column, rows in zip(known, taken, strict=True)])
        _try(segment, partial(columns.inherit, segment, field, sources, np.sort(gone)))
    if lacking:
        _try(segment, partial(columns.build, segment, lacking))


def _taken(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows with the ascending numbers ``old`` stand in ``new`` too, and where."""
    places = np.searchsorted(old, new)
    places[places == len(old)] = 0
    targets = np.flatnonzero(old[places] == new)
    return places[targets], targets


def _gone(column: Column, rows: np.ndarray, targets: np.ndarray) -> np.ndarray:
    gone: np.ndarray = targets[np.isin(rows, column.gone)]
    return gone


def _try(segment: Segment, work: Callable[[], None]) -> None:
    """A column is a cache: the first filter that needs it builds it anew."""
    try:
        work()
    except (OSError, ColumnTooLarge, StoreError) as error:
        _logger.warning("column not inherited", extra={"segment": segment.name, "reason": repr(error)})
