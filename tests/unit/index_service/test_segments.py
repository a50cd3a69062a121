"""Segments: sealing, merging, reopening and damage change no answer; codes keep nearly all of it."""

import errno
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from threading import Event

import faiss
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.compaction import Policy
from index_service.memtable import Memtable
from index_service.metrics import IndexMetrics
from index_service.recipes import EXACT, FASTSCAN, Build, Recipe
from index_service.records import Delete, Record, Upsert
from index_service.segment import Interrupted, Rows, Segment, write_segment
from index_service.segment_folder import SegmentFolder
from index_service.shard import STORE_FILE, Shard
from index_service.shard_search import Wanted, search
from index_service.vector_space import Metric, VectorSpace

DIMENSION = 24
SEAL_ROWS = 500


def space(metric: Metric = Metric.COSINE) -> VectorSpace:
    return VectorSpace(DIMENSION, "ab" * 32, metric)


def opened(folder: Path, own: VectorSpace, build: Build = FASTSCAN) -> Shard:
    """A shard with indexes and segments at hundreds of rows, not tens of thousands."""
    policy = Policy(build, index_from_rows=1_500, seal_rows=SEAL_ROWS)
    return Shard(folder, "shard 0 of collection 'pets'", own, IndexMetrics(CollectorRegistry()), policy)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Shard.create(tmp_path, DIMENSION)
    return tmp_path


def random_vectors(random: np.random.Generator, own: VectorSpace, count: int) -> np.ndarray:
    prepared, _ = own.prepare(random.standard_normal((count, DIMENSION)).astype(np.float32))
    return prepared.astype(np.float16)


def check(one: Shard, own: VectorSpace, model: dict[str, np.ndarray], random: np.random.Generator) -> None:
    """Exact answers are those of comparing all that the model holds."""
    assert len(one) == len(model) == one.stats().record_count
    ids = np.array(sorted(model), dtype=object)
    stored = np.stack([model[name] for name in ids]).astype(np.float32)
    queries = random_vectors(random, own, 3).astype(np.float32)
    for limit in (1, 10, len(model) + 5):
        found = search(one.view, own, queries, Wanted(limit))
        assert found.recipe is Recipe.EXACT
        for query, hits in zip(queries, found.hits, strict=True):
            scores = own.scores(query[None, :], stored)
            order = np.argsort(-scores, kind="stable")[:limit]
            assert one.view.ids_at(hits.addresses).tolist() == ids[order].tolist()
            assert hits.scores.tolist() == scores[order].tolist()
            assert (one.view.vectors_at(hits.addresses) == stored[order]).all()


@pytest.mark.parametrize("metric", list(Metric))
def test_whatever_is_written_sealed_merged_and_reopened_answers_stay_exact(folder: Path, metric: Metric) -> None:
    random, own, model = np.random.default_rng(11), space(metric), dict[str, np.ndarray]()
    one = opened(folder, own)
    most_segments = 0
    for step in range(60):
        ids = [f"id{number}" for number in random.choice(4_000, size=random.integers(1, 400), replace=False)]
        if random.random() < 0.75:
            vectors = random_vectors(random, own, len(ids))
            one.write([Upsert([Record(name) for name in ids], vectors)])
            model |= dict(zip(ids, vectors, strict=True))
        else:
            one.write([Delete(ids)])
            model = {name: vector for name, vector in model.items() if name not in set(ids)}
        if random.random() < 0.7:
            one.compact(idle=bool(random.random() < 0.15))
        most_segments = max(most_segments, one.stats().segment_count)
        if step % 6 == 5:
            check(one, own, model, random)
        if step % 20 == 19:
            one.close()
            one = opened(folder, own)
            check(one, own, model, random)
    assert most_segments >= 3
    while one.compact(idle=True):
        pass
    assert one.stats().segment_count == 1
    check(one, own, model, random)
    one.close()


def test_writes_during_a_seal_and_a_merge_are_not_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random, own, model = np.random.default_rng(12), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:

        def write(ids: list[str]) -> None:
            vectors = random_vectors(random, own, len(ids))
            one.write([Upsert([Record(name) for name in ids], vectors)])
            model.update(zip(ids, vectors, strict=True))

        write_segment = SegmentFolder.write
        during: list[list[str]] = []

        def write_and_be_disturbed(self: SegmentFolder, rows: Rows, build: Build, stop: Event) -> object:
            written = write_segment(self, rows, build, stop)
            ids = during.pop()
            write(ids[::2])
            one.write([Delete(ids[1::2])])
            for name in ids[1::2]:
                model.pop(name, None)
            return written

        for part in range(3):
            write([f"{part}-{number}" for number in range(1_100)])
            while sum(block.rows for block in one._memtable.full_blocks()) < SEAL_ROWS:
                write([f"{part}-more-{len(model) + number}" for number in range(100)])
            with monkeypatch.context() as patched:
                patched.setattr(SegmentFolder, "write", write_and_be_disturbed)
                during.append([f"{part}-{number}" for number in range(0, 1_100, 7)])
                assert one.compact(idle=False)
            check(one, own, model, random)
        assert one.stats().segment_count == 3
        with monkeypatch.context() as patched:
            patched.setattr(SegmentFolder, "write", write_and_be_disturbed)
            during.append([f"{part}-{number}" for part in range(3) for number in range(5, 1_100, 9)])
            assert one.compact(idle=True)
        assert one.stats().segment_count == 1
        check(one, own, model, random)


@pytest.mark.parametrize("fails", [False, True], ids=["merged", "merge fails"])
def test_memory_is_sealed_while_segments_are_merged(folder: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """A merge takes long, and the shard is written to meanwhile: all count in the end, after a restart too."""
    random, own, model = np.random.default_rng(19), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:

        def fill(name: str) -> None:
            ids = [f"{name}-{number}" for number in range(1_600)]
            vectors = random_vectors(random, own, len(ids))
            one.write([Upsert([Record(record_id) for record_id in ids], vectors)])
            model.update(zip(ids, vectors, strict=True))
            assert one.seal(idle=True)

        fill("first")
        fill("second")
        publish = SegmentFolder.publish

        def seal_before(
            self: SegmentFolder, added: Sequence[Segment], removed: Sequence[Segment], applied_sequence: int
        ) -> None:
            if removed:
                fill("third")
                if fails:
                    raise OSError(errno.ENOSPC, "No space left on device")
            publish(self, added, removed, applied_sequence)

        with monkeypatch.context() as patched:
            patched.setattr(SegmentFolder, "publish", seal_before)
            if fails:
                with pytest.raises(OSError, match="No space"):
                    one.merge(idle=True)
            else:
                assert one.merge(idle=True)
        segments = 3 if fails else 2
        assert (one.stats().segment_count, one.stats().memtable_rows) == (segments, 0)
        check(one, own, model, random)
    with closing(opened(folder, own)) as one:
        assert (one.stats().segment_count, one.stats().memtable_rows) == (segments, 0)
        assert len(list((folder / "segments").iterdir())) == segments
        check(one, own, model, random)


def test_writes_wait_while_memory_holds_more_than_is_sealed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index_service.shard._LONGEST_STALL_SECONDS", 60.0)
    random, own = np.random.default_rng(20), space()
    with closing(opened(folder, own)) as one, ThreadPoolExecutor(1) as writer:

        def write(first: int, count: int) -> None:
            vectors = random_vectors(random, own, count)
            one.write([Upsert([Record(str(number)) for number in range(first, first + count)], vectors)])

        write(0, 8 * SEAL_ROWS)
        waiting = writer.submit(write, 8 * SEAL_ROWS, 10)
        assert not wait([waiting], timeout=0.2).done
        assert one.seal(idle=True)
        waiting.result(timeout=20)
        assert len(one) == 8 * SEAL_ROWS + 10


def test_a_seal_in_the_middle_of_a_write_takes_no_row_that_is_not_shown_yet(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, own, model = np.random.default_rng(18), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one, ThreadPoolExecutor(1) as compaction_thread:

        def write(first: int, count: int) -> None:
            ids = [f"{number}" for number in range(first, first + count)]
            vectors = random_vectors(random, own, count)
            one.write([Upsert([Record(name) for name in ids], vectors)])
            model.update(zip(ids, vectors, strict=True))

        write(0, 700)  # the newest block is left with room
        publish = Memtable._publish
        started: list[Future[bool]] = []

        def publish_while_compacting(self: Memtable, touched: set[int]) -> None:
            started.append(compaction_thread.submit(one.compact, idle=False))
            wait(started, timeout=0.5)  # it must not need what is under way, and ends after it
            publish(self, touched)

        with monkeypatch.context() as patched:
            patched.setattr(Memtable, "_publish", publish_while_compacting)
            write(700, 600)
        wait(started)
        assert one.stats().segment_count == 1
        check(one, own, model, random)


def test_an_idle_shard_leaves_little_in_memory_and_does_not_rewrite_much_for_little(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index_service.shard.IDLE_SEAL_ROWS", 40)
    random, own, model = np.random.default_rng(17), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:

        def write(first: int, count: int) -> None:
            ids = [f"{number}" for number in range(first, first + count)]
            vectors = random_vectors(random, own, count)
            one.write([Upsert([Record(name) for name in ids], vectors)])
            model.update(zip(ids, vectors, strict=True))

        write(0, 2_000)
        while one.compact(idle=True):
            pass
        assert (one.stats().segment_count, one.stats().memtable_rows) == (1, 0)
        write(5_000, 39)
        assert not one.compact(idle=True)
        write(6_000, 50)
        while one.compact(idle=True):
            pass
        assert (one.stats().segment_count, one.stats().memtable_rows) == (2, 0), "89 rows are not worth rewriting 2,000"
        write(7_000, 60)
        write(0, 10)
        while one.compact(idle=True):
            pass
        assert one.stats().segment_count == 1
        check(one, own, model, random)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "manifest gone"])
def test_damaged_files_are_put_aside_and_answers_stay_exact(folder: Path, damage: str) -> None:
    random, own, model = np.random.default_rng(14), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:
        for part in range(2):
            ids = [f"{part}-{number}" for number in range(900)]
            vectors = random_vectors(random, own, 900)
            one.write([Upsert([Record(name) for name in ids], vectors)])
            model |= dict(zip(ids, vectors, strict=True))
            assert one.compact(idle=False)
    segments = sorted((folder / "segments").iterdir())
    assert len(segments) == 2
    for path in sorted(segments[0].iterdir()):
        whole = path.read_bytes()
        match damage:
            case "flip":
                spoiled = bytearray(whole)
                spoiled[len(whole) // 2] ^= 4
                path.write_bytes(spoiled)
            case "truncate":
                path.write_bytes(whole[:-3])
            case "remove":
                path.unlink()
        if damage.startswith("manifest"):
            manifest = folder / "manifest.json"
            manifest.unlink() if "gone" in damage else manifest.write_bytes(manifest.read_bytes()[:-30])
        with closing(opened(folder, own)) as one:
            check(one, own, model, random)
            assert one.stats().segment_count == (0 if "manifest" in damage else 1)
        if "manifest" in damage:
            break
        [aside] = (folder / "quarantine").iterdir()
        aside.rename(segments[0])
        path.write_bytes(whole)
        manifest = folder / "manifest.json"
        with closing(opened(folder, own)) as one:
            assert one.stats().segment_count == 2, "the manifest still names it"


@pytest.mark.parametrize(
    "manifest",
    [
        '{"format": 2, "applied_sequence": 1, "shape": "not thought of yet"}',
        '{"format": "1", "applied_sequence": 1, "segments": []}',
        '{"format": 1, "applied_sequence": 1, "segments": [{"name": "KNOWN", "files": ["vectors.faiss"]}]}',
        '{"format": 1, "applied_sequence": 1, "segments": {"KNOWN": {}}}',
        '{"format": 1, "applied_sequence": "1", "segments": []}',
        '{"format": 1}',
        "[1]",
        "null",
        "\x00",
        "",
    ],
)
def test_a_manifest_of_another_form_leads_to_a_rebuild_and_new_segments(folder: Path, manifest: str) -> None:
    random, own, model = np.random.default_rng(18), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:
        ids = [f"{number}" for number in range(900)]
        vectors = random_vectors(random, own, 900)
        one.write([Upsert([Record(name) for name in ids], vectors)])
        model |= dict(zip(ids, vectors, strict=True))
        assert one.compact(idle=False)
    [segment] = (folder / "segments").iterdir()
    (folder / "manifest.json").write_text(manifest.replace("KNOWN", segment.name))
    with closing(opened(folder, own)) as one:
        assert one.stats().segment_count == 0
        check(one, own, model, random)
        assert one.compact(idle=False)
        check(one, own, model, random)
    with closing(opened(folder, own)) as one:
        assert one.stats().segment_count == 1
        check(one, own, model, random)


def test_files_of_a_segment_that_can_not_be_read_lead_to_a_rebuild(folder: Path) -> None:
    """As those of a later release might be: digests right, contents unknown."""
    random, own, model = np.random.default_rng(19), space(), dict[str, np.ndarray]()
    with closing(opened(folder, own)) as one:
        ids = [f"{number}" for number in range(900)]
        vectors = random_vectors(random, own, 900)
        one.write([Upsert([Record(name) for name in ids], vectors)])
        model |= dict(zip(ids, vectors, strict=True))
        assert one.compact(idle=False)
    [segment] = (folder / "segments").iterdir()
    strange = b"a kind of index that this release does not know"
    (segment / "vectors.faiss").write_bytes(strange)
    described = json.loads((folder / "manifest.json").read_text())
    described["segments"][0]["files"]["vectors.faiss"] = {
        "bytes": len(strange),
        "sha256": hashlib.sha256(strange).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(described))
    with closing(opened(folder, own)) as one:
        assert one.stats().segment_count == 0
        check(one, own, model, random)


def test_what_a_crash_left_half_written_is_cleared(folder: Path) -> None:
    own = space()
    opened(folder, own).close()
    (folder / "segments" / ".writing-1").mkdir()
    (folder / "segments" / ".writing-1" / "vectors.faiss").write_bytes(b"half")
    (folder / "segments" / "never-published").mkdir()
    opened(folder, own).close()
    assert list((folder / "segments").iterdir()) == []


def test_segments_newer_than_the_records_do_not_count(folder: Path) -> None:
    random, own = np.random.default_rng(15), space()
    with closing(opened(folder, own)) as one:
        one.write([Upsert([Record(f"{number}") for number in range(900)], random_vectors(random, own, 900))])
        assert one.compact(idle=False)
    for path in folder.glob(f"{STORE_FILE}*"):
        path.unlink()
    Shard.create(folder, DIMENSION)
    with closing(opened(folder, own)) as one:
        assert len(one) == 0
        assert one.stats().segment_count == 0


def test_closing_cuts_compaction_short(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = space()
    one = opened(folder, own)
    one.write([Upsert([Record(f"{n}") for n in range(900)], random_vectors(np.random.default_rng(16), own, 900))])
    write_segment = SegmentFolder.write
    interrupted: list[bool] = []

    def write_while_closing(self: SegmentFolder, rows: Rows, build: Build, stop: Event) -> object:
        one._closing.set()
        try:
            return write_segment(self, rows, build, stop)
        except Interrupted:
            interrupted.append(True)
            raise

    monkeypatch.setattr(SegmentFolder, "write", write_while_closing)
    assert not one.compact(idle=False)
    assert interrupted
    one.close()
    assert list((folder / "segments").iterdir()) == []
    assert not one.compact(idle=True)


@pytest.mark.parametrize("file", ["rows.i64", "id-ends.u64", "ids.utf8", "segment.json"])
def test_a_disk_that_is_found_full_at_the_last_byte_of_a_file_fails_the_segment(tmp_path: Path, file: str) -> None:
    """FAISS only prints it of its own files; they don't open then, as the next test shows."""
    (tmp_path / file).symlink_to("/dev/full")
    rows = Rows(np.arange(3), ["a", "b", "c"], np.eye(3, DIMENSION, dtype=np.float16))
    with pytest.raises((OSError, RuntimeError)):
        write_segment(tmp_path, rows, space(), EXACT, Event())


@pytest.mark.parametrize(("file", "cut"), [("rows.i64", 8), ("id-ends.u64", 8), ("ids.utf8", 1), ("vectors.faiss", 1)])
def test_a_segment_of_which_a_file_is_short_does_not_open(tmp_path: Path, file: str, cut: int) -> None:
    rows = Rows(np.arange(3), ["a", "b", "c"], np.eye(3, DIMENSION, dtype=np.float16))
    write_segment(tmp_path, rows, space(), EXACT, Event())
    assert Segment("whole", tmp_path, space()).rows == 3
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-cut])
    with pytest.raises(RuntimeError):
        Segment("short", tmp_path, space())


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dimension", [1, 24, 768])
def test_vectors_are_written_as_faiss_writes_them(tmp_path: Path, metric: Metric, dimension: int) -> None:
    """Byte for byte, so that a new FAISS with another form does not go unnoticed."""
    own = VectorSpace(dimension, "ab" * 32, metric)
    vectors = np.random.default_rng(21).standard_normal((40, dimension)).astype(np.float16)
    write_segment(tmp_path, Rows(np.arange(40), [str(row) for row in range(40)], vectors), own, EXACT, Event())
    kind = faiss.METRIC_L2 if metric is Metric.L2 else faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_fp16, kind)
    index.add(vectors.astype(np.float32))
    assert (tmp_path / "vectors.faiss").read_bytes() == faiss.serialize_index(index).tobytes()
