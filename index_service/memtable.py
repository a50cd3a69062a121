"""The vectors of one shard in memory, with what filters see: blocks that grow, never move, and are read without a lock.

Owns where a vector lies and which are dead. One writer at a time changes a Memtable; readers take its ``view``, which
never changes. Knows nothing of disks, requests or scores.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from index_service.columns import BlockColumns
from index_service.vector_space import STORED_DTYPE

_ADDRESS_BITS = 14
_FIRST_BLOCK_ROWS = 256
_LARGEST_BLOCK_ROWS = 1 << _ADDRESS_BITS
_LARGEST_BLOCK_TEXT_BYTES = 16 * 1024 * 1024
"""Bytes of captions and metadata from which a block takes no more rows."""

_COMPACT_FROM_TOMBSTONES = 4096

Texts = Sequence[str | bytes | None]


@dataclass(frozen=True, slots=True)
class BlockView:
    """The first rows of one block, as they stood when the view was taken."""

    vectors: np.ndarray
    """(rows, dimension) float16."""
    numbers: np.ndarray
    """(rows,) int64, ascending: the rows' numbers in the record store."""
    ids: np.ndarray
    """(rows,) str objects."""
    captions: np.ndarray
    """(rows,) str objects, None where there is none."""
    metadata: np.ndarray
    """(rows,) bytes objects, JSON, None where there is none."""
    text_bytes: int
    """About the bytes of captions and metadata."""
    columns: BlockColumns
    """What filters made of these; shared by all views of the block."""
    dead: np.ndarray | None
    """(rows,) bool: deleted or replaced; None where none is."""
    dead_count: int
    longest: float
    """No vector of the block is longer."""

    @property
    def rows(self) -> int:
        """Vectors in the block, dead ones included."""
        return len(self.ids)

    @property
    def live_count(self) -> int:
        """Vectors that can be found."""
        return self.rows - self.dead_count

    def vectors_of(self, rows: np.ndarray) -> np.ndarray:
        """(n, dimension) float32."""
        vectors: np.ndarray = self.vectors[rows].astype(np.float32)
        return vectors

    def ids_of(self, rows: np.ndarray) -> np.ndarray:
        """(n,) str objects."""
        ids: np.ndarray = self.ids[rows]
        return ids

    def id_of(self, row: int) -> str:
        """The id of one row."""
        own: str = self.ids[row]
        return own


@dataclass(frozen=True, slots=True)
class View:
    """All a search needs of one shard; immutable."""

    blocks: tuple[BlockView, ...]

    @property
    def rows(self) -> int:
        """Vectors in all blocks, dead ones included."""
        return sum(block.rows for block in self.blocks)

    @property
    def live_count(self) -> int:
        """Vectors that can be found."""
        return sum(block.live_count for block in self.blocks)


class _Block:
    """A block while it grows. ``dead`` is replaced, never changed, so that views may share it."""

    def __init__(self, capacity: int, dimension: int) -> None:
        self.vectors = np.empty((capacity, dimension), dtype=STORED_DTYPE)
        self.numbers = np.empty(capacity, dtype=np.int64)
        self.ids = np.empty(capacity, dtype=object)
        self.captions = np.empty(capacity, dtype=object)
        self.metadata = np.empty(capacity, dtype=object)
        self.text_bytes = 0
        self.columns = BlockColumns()
        self.dead: np.ndarray | None = None
        self.rows = 0
        self.dead_count = 0
        self.longest = 0.0

    @property
    def room(self) -> int:
        return len(self.ids) - self.rows

    def close(self) -> None:
        """Take no more rows; the room left is given back once nobody reads the block's old arrays."""
        self.vectors = self.vectors[: self.rows].copy()
        self.numbers = self.numbers[: self.rows].copy()
        self.ids = self.ids[: self.rows].copy()
        self.captions = self.captions[: self.rows].copy()
        self.metadata = self.metadata[: self.rows].copy()
        self.dead = None if self.dead is None else self.dead[: self.rows]

    def append(
        self, numbers: np.ndarray, ids: Sequence[str], vectors: np.ndarray, captions: Texts, metadata: Texts
    ) -> None:
        end = self.rows + len(ids)
        stored = self.vectors[self.rows : end]
        stored[:] = vectors
        self.numbers[self.rows : end] = numbers
        self.ids[self.rows : end] = ids
        self.captions[self.rows : end] = captions
        self.metadata[self.rows : end] = metadata
        self.text_bytes += sum(len(text) for texts in (captions, metadata) for text in texts if text is not None)
        wide = stored.astype(np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64))
        self.longest = max(self.longest, float(lengths.max()))
        self.rows = end

    def bury(self, rows: list[int]) -> None:
        dead = np.zeros(len(self.ids), dtype=bool) if self.dead is None else self.dead.copy()
        dead[rows] = True
        self.dead = dead
        self.dead_count += len(rows)

    def view(self) -> BlockView:
        dead = None if self.dead is None else self.dead[: self.rows]
        return BlockView(
            self.vectors[: self.rows],
            self.numbers[: self.rows],
            self.ids[: self.rows],
            self.captions[: self.rows],
            self.metadata[: self.rows],
            self.text_bytes,
            self.columns,
            dead,
            self.dead_count,
            self.longest,
        )


class Memtable:
    """The vectors of one shard, by id."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension
        self._blocks: list[_Block] = []
        self._addresses: dict[str, int] = {}
        self.view = View(())

    def __len__(self) -> int:
        return len(self._addresses)

    @property
    def vector_bytes(self) -> int:
        """Bytes of all vectors held, dead ones included."""
        return self.view.rows * self._dimension * STORED_DTYPE.itemsize

    @property
    def tombstone_count(self) -> int:
        """Dead vectors still held."""
        return self.view.rows - self.view.live_count

    def vector_of(self, record_id: str) -> np.ndarray | None:
        """The vector (dimension,) float32 of a record, or None when there is none. Needs no lock."""
        address = self._addresses.get(record_id)
        if address is None:
            return None
        # Rows are never overwritten, so an address taken a moment ago still leads to the vector it led to then.
        vector: np.ndarray = self._blocks[address >> _ADDRESS_BITS].vectors[address & (_LARGEST_BLOCK_ROWS - 1)]
        return vector.astype(np.float32)

    def upsert(
        self,
        numbers: np.ndarray,
        ids: Sequence[str],
        vectors: np.ndarray,
        captions: Texts | None = None,
        metadata: Texts | None = None,
    ) -> None:
        """Write vectors (n, dimension) of any float dtype under distinct ids, in place of those they had.

        ``numbers`` (n,) int64 ascend, and are larger than all before. Only one thread may write.
        """
        captions, metadata = captions or [None] * len(ids), metadata or [None] * len(ids)
        touched = self._bury(ids)
        begin = 0
        placed: dict[str, int] = {}
        while begin < len(ids):
            if not self._blocks or not self._blocks[-1].room:
                self._blocks.append(_Block(self._next_capacity(), self._dimension))
            number, block = len(self._blocks) - 1, self._blocks[-1]
            end = min(len(ids), begin + block.room)
            base = (number << _ADDRESS_BITS) + block.rows
            own = slice(begin, end)
            block.append(numbers[own], ids[own], vectors[own], captions[own], metadata[own])
            if block.text_bytes > _LARGEST_BLOCK_TEXT_BYTES:
                block.close()
            placed.update(zip(ids[begin:end], range(base, base + end - begin), strict=True))
            touched.add(number)
            begin = end
        self._addresses.update(placed)
        self._publish(touched)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove vectors; ids that are not here are passed over."""
        touched = self._bury(ids)
        for record_id in ids:
            self._addresses.pop(record_id, None)
        self._publish(touched)

    def should_compact(self) -> bool:
        """Whether more is dead than alive, and enough of it to be worth copying the rest."""
        return self.tombstone_count > max(_COMPACT_FROM_TOMBSTONES, len(self))

    def compacted(self) -> "Memtable":
        """A Memtable of the live vectors alone. This one stays as it is for those who read it."""
        fresh = Memtable(self._dimension)
        for block in self.view.blocks:
            live = slice(None) if block.dead is None else ~block.dead
            captions, metadata = block.captions[live].tolist(), block.metadata[live].tolist()
            fresh.upsert(block.numbers[live], block.ids[live].tolist(), block.vectors[live], captions, metadata)
        return fresh

    def close_last_block(self) -> None:
        """Let the newest block count as full. Only the thread that writes may call it."""
        if self._blocks and self._blocks[-1].room:
            self._blocks[-1].close()

    def full_blocks(self) -> tuple[BlockView, ...]:
        """The oldest blocks, those that get no more rows: what can be sealed. Not to be called while one writes."""
        return self.view.blocks[: sum(not block.room for block in self._blocks)]

    def without_oldest(self, count: int) -> "Memtable":
        """A Memtable without the oldest ``count`` blocks. This one stays as it is for those who read it."""
        fresh = Memtable(self._dimension)
        fresh._blocks = self._blocks[count:]
        first = count << _ADDRESS_BITS
        fresh._addresses = {own: address - first for own, address in self._addresses.items() if address >= first}
        fresh.view = View(self.view.blocks[count:])
        return fresh

    def _bury(self, ids: Sequence[str]) -> set[int]:
        rows_by_block: defaultdict[int, list[int]] = defaultdict(list)
        for record_id in ids:
            address = self._addresses.get(record_id)
            if address is not None:
                rows_by_block[address >> _ADDRESS_BITS].append(address & (_LARGEST_BLOCK_ROWS - 1))
        for number, rows in rows_by_block.items():
            self._blocks[number].bury(rows)
        return set(rows_by_block)

    def _next_capacity(self) -> int:
        held = sum(block.rows for block in self._blocks)
        return min(max(_FIRST_BLOCK_ROWS, held), _LARGEST_BLOCK_ROWS)

    def _publish(self, touched: set[int]) -> None:
        """One assignment makes a write visible; views taken before keep what they show."""
        blocks = list(self.view.blocks)
        for number in sorted(touched):
            blocks[number : number + 1] = [self._blocks[number].view()]
        self.view = View(tuple(blocks))
