import numpy as np

from index_service.memtable import Memtable, View
from index_service.records import Delete, Record, RecordUpdate, Update, Upsert


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
    table, model = Memtable(2), dict[str, list[float]]()
    kept: list[tuple[View, dict[str, list[float]]]] = []
    for _ in range(150):
        ids = [f"id{number}" for number in random.choice(900, size=random.integers(1, 60), replace=False)]
        if random.random() < 0.7:
            vectors = random.integers(-9, 9, (len(ids), 2)).astype(np.float16)
            table.apply(Upsert([Record(own) for own in ids], vectors))
            model |= dict(zip(ids, vectors.astype(float).tolist(), strict=True))
        else:
            table.apply(Delete(ids))
            model = {own: vector for own, vector in model.items() if own not in ids}
        kept.append((table.view, dict(model)))
    assert len(table.view.blocks) > 2
    for view, expected in kept:
        assert contents(view) == expected
    assert len(table) == len(model)
    assert table.tombstone_count == table.view.rows - len(model)
    assert table.vector_bytes == table.view.rows * 8
    for own in map("id{}".format, range(900)):
        vector = table.vector_of(own)
        assert (None if vector is None else vector.tolist()) == model.get(own)


def test_compacting_drops_the_dead_and_leaves_the_old_table_to_its_readers() -> None:
    table = Memtable(1)
    ids = [f"{number:05d}" for number in range(9_000)]
    table.upsert(ids, np.arange(9_000, dtype=np.float32)[:, None] % 100)
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
    table.upsert(ids, np.zeros((4, 1), np.float32))
    assert table.view.blocks[0].ids.tolist() == ids


def test_updates_of_text_change_nothing_here() -> None:
    table = Memtable(1)
    table.upsert(["a"], np.ones((1, 1), np.float32))
    before = table.view
    table.apply(Update([RecordUpdate("a", caption="new")]))
    assert table.view is before


def test_the_longest_vector_of_a_block_bounds_all_of_it() -> None:
    table = Memtable(2)
    table.upsert(["a", "b"], np.array([[3, 4], [0, 1]], np.float32))
    assert table.view.blocks[0].longest == 5.0
