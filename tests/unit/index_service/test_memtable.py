import numpy as np

from index_service.memtable import Memtable, View


def contents(view: View) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for block in view.blocks:
        for row in range(block.rows):
            if block.dead is None or not block.dead[row]:
                assert block.ids[row] not in found
                found[block.ids[row]] = block.vectors[row].tolist()
    assert len(found) == view.live_count
    return found


def test_random_writes_leave_what_a_dictionary_would_hold_and_views_stay_as_they_were() -> None:
    random = np.random.default_rng(7)
    number = 0
    table, model = Memtable(2), dict[str, list[float]]()
    kept: list[tuple[View, dict[str, list[float]]]] = []
    for _ in range(150):
        ids = [f"id{number}" for number in random.choice(900, size=random.integers(1, 60), replace=False)]
        if random.random() < 0.7:
            vectors = random.integers(-9, 9, (len(ids), 2)).astype(np.float16)
            table.upsert(np.arange(number, number + len(ids)), ids, vectors)
            number += len(ids)
            model |= dict(zip(ids, vectors.astype(float).tolist(), strict=True))
        else:
            table.delete(ids)
            model = {own: vector for own, vector in model.items() if own not in ids}
        kept.append((table.view, dict(model)))
    assert len(table.view.blocks) > 2
    for view, expected in kept:
        assert contents(view) == expected
    assert len(table) == len(model)
    assert table.tombstone_count == table.view.rows - len(model)
    assert table.vector_bytes == table.view.rows * 4
    for own in map("id{}".format, range(900)):
        vector = table.vector_of(own)
        assert (None if vector is None else vector.tolist()) == model.get(own)


def test_compacting_drops_the_dead_and_leaves_the_old_table_to_its_readers() -> None:
    table = Memtable(1)
    ids = [f"{number:05d}" for number in range(9_000)]
    table.upsert(np.arange(9_000), ids, np.arange(9_000, dtype=np.float32)[:, None] % 100)
    assert not table.should_compact()
    table.delete(ids[:4_600])
    assert table.should_compact()
    before = table.view
    fresh = table.compacted()
    assert contents(fresh.view) == contents(before)
    assert fresh.tombstone_count == 0
    assert fresh.vector_of(ids[5_000]) is not None
    assert fresh.vector_of(ids[0]) is None
    assert table.view is before


def test_ids_keep_every_character() -> None:
    table = Memtable(1)
    ids = ["nul\x00", "nul", " space ", "🐞"]
    table.upsert(np.arange(4), ids, np.zeros((4, 1), np.float32))
    assert table.view.blocks[0].ids.tolist() == ids


def test_blocks_grow_with_what_is_held_however_it_comes() -> None:
    at_once, piecemeal = Memtable(1), Memtable(1)
    ids = [f"{number:05d}" for number in range(40_000)]
    at_once.upsert(np.arange(40_000), ids, np.zeros((40_000, 1)))
    for begin in range(0, 40_000, 500):
        piece = ids[begin : begin + 500]
        piecemeal.upsert(np.arange(begin, begin + 500), piece, np.zeros((500, 1)))
    for table in (at_once, piecemeal):
        assert len(table.view.blocks) <= 10
        assert max(block.rows for block in table.view.blocks) == 1 << 14


def test_the_oldest_blocks_can_be_taken_away() -> None:
    table = Memtable(1)
    ids = [f"{number:05d}" for number in range(3_000)]
    table.upsert(np.arange(3_000), ids, np.arange(3_000, dtype=np.float32)[:, None] % 2_000)
    table.delete(ids[:10])
    before, full = table.view, table.full_blocks()
    assert 0 < sum(block.rows for block in full) < 3_000
    first = int(full[-1].numbers[-1]) + 1
    fresh = table.without_oldest(len(full))
    assert table.view is before
    assert contents(fresh.view) == {own: [float(row % 2_000)] for row, own in enumerate(ids) if row >= first}
    assert fresh.vector_of(ids[first - 1]) is None
    fresh.upsert(np.arange(3_000, 3_001), [ids[first]], np.array([[-1.0]]))
    assert contents(fresh.view)[ids[first]] == [-1.0]
    assert len(fresh) == 3_000 - first


def test_the_longest_vector_of_a_block_bounds_all_of_it() -> None:
    table = Memtable(2)
    table.upsert(np.arange(2), ["a", "b"], np.array([[3, 4], [0, 1]], np.float32))
    assert table.view.blocks[0].longest == 5.0
