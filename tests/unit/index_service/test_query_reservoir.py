"""Which queries are kept, and what becomes of them across restarts and damage."""

import logging
import re
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index_service.index_config import Modality
from index_service.query_reservoir import QueryReservoir, ReservoirSaver
from index_service.vector_space import Metric, VectorSpace

LINE = VectorSpace(1, "ab" * 32, Metric.L2)
SPACE = VectorSpace(4, "ab" * 32, Metric.COSINE)
CAPACITY = 50
MEMORY = CAPACITY * 32
CHI_SQUARE_999_OF_15 = 37.70
"""The 99.9 % quantile of the chi-square distribution with 15 degrees of freedom."""


def unit_vectors(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, SPACE.dimension)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def kept_of_a_stream(path: Path, length: int, streams: int) -> np.ndarray:
    """Places in the stream of all queries that are kept, of many streams with a reservoir each."""
    stream = np.arange(length, dtype=np.float32)[:, None]
    kept = []
    for seed in range(streams):
        reservoir = QueryReservoir(path, LINE, CAPACITY, seed)
        reservoir.add(Modality.TEXT, stream, 10)
        kept.append(reservoir.sample(Modality.TEXT)[:, 0])
        assert len(set(kept[-1].tolist())) == CAPACITY
    return np.concatenate(kept)


def chi_square(observed: np.ndarray, expected: np.ndarray) -> float:
    assert len(observed) == 16
    return float(((observed - expected) ** 2 / expected).sum())


def test_at_first_every_query_has_the_same_chance_to_be_kept(tmp_path: Path) -> None:
    kept = kept_of_a_stream(tmp_path / "none", MEMORY, 100)
    observed, _ = np.histogram(kept, 16, (0, MEMORY))
    assert chi_square(observed, np.full(16, len(kept) / 16)) < CHI_SQUARE_999_OF_15


def test_later_the_chance_falls_exponentially_with_age(tmp_path: Path) -> None:
    length = 5 * MEMORY
    kept = kept_of_a_stream(tmp_path / "none", length, 50)
    places = np.arange(length)
    chances = CAPACITY / MEMORY * (1 - 1 / MEMORY) ** (length - 1 - np.maximum(places, MEMORY - 1))
    borders = np.searchsorted(np.cumsum(chances), np.linspace(0, chances.sum(), 17)[1:-1])
    expected = np.array([part.sum() for part in np.split(chances, borders)]) * 50
    observed, _ = np.histogram(kept, [0, *borders, length])
    assert chi_square(observed, expected) < CHI_SQUARE_999_OF_15
    uniform = np.diff([0, *borders, length]) * len(kept) / length
    assert chi_square(observed, uniform) > 10 * CHI_SQUARE_999_OF_15


def test_captions_and_images_are_kept_apart_and_records_not_at_all(tmp_path: Path) -> None:
    reservoir = QueryReservoir(tmp_path / "queries.npz", SPACE)
    captions, images = unit_vectors(5, 1), unit_vectors(7, 2)
    reservoir.add(Modality.TEXT, captions, 10)
    reservoir.add(Modality.IMAGE, images, 3)
    reservoir.add(Modality.RECORD, unit_vectors(9, 3), 10)
    assert (reservoir.sample(Modality.TEXT) == captions).all()
    vectors, ks = reservoir.recorded(Modality.IMAGE)
    assert (vectors == images).all()
    assert ks.tolist() == [3] * 7
    assert reservoir.sample(Modality.RECORD).shape == (0, SPACE.dimension)


def test_what_is_kept_does_not_change_with_the_callers_array(tmp_path: Path) -> None:
    reservoir = QueryReservoir(tmp_path / "queries.npz", SPACE)
    vectors = unit_vectors(3)
    reservoir.add(Modality.TEXT, vectors, 10)
    before = vectors.copy()
    vectors[:] = 0
    reservoir.sample(Modality.TEXT)[:] = 0
    assert (reservoir.sample(Modality.TEXT) == before).all()


def test_it_outlives_a_restart_and_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "queries.npz"
    first = QueryReservoir(path, SPACE, CAPACITY)
    vectors = unit_vectors(MEMORY * 2)
    first.add(Modality.TEXT, vectors, 10)
    first.add(Modality.IMAGE, vectors[:3], 7)
    first.close()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    second = QueryReservoir(path, SPACE, CAPACITY)
    for modality in (Modality.TEXT, Modality.IMAGE):
        assert sorted(map(tuple, second.sample(modality))) == sorted(map(tuple, first.sample(modality)))
    assert second.recorded(Modality.IMAGE)[1].tolist() == [7] * 3
    second.add(Modality.TEXT, -vectors[:100], 10)
    fresh = {tuple(vector) for vector in (-vectors[:100]).tolist()}
    entered = sum(tuple(vector) in fresh for vector in second.sample(Modality.TEXT).tolist())
    assert 0 <= entered <= 15, "about 100 / 32: the stream goes on, it does not begin anew"


def test_a_smaller_capacity_thins_what_was_saved_and_0_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "queries.npz"
    first = QueryReservoir(path, SPACE)
    vectors = unit_vectors(100)
    first.add(Modality.TEXT, vectors, 10)
    first.close()
    thinned = QueryReservoir(path, SPACE, 10).sample(Modality.TEXT)
    assert len(thinned) == 10
    assert {tuple(vector) for vector in thinned} <= {tuple(vector) for vector in vectors}
    nothing = QueryReservoir(path, SPACE, 0)
    nothing.add(Modality.TEXT, vectors, 10)
    nothing.close()
    assert not nothing.sample(Modality.TEXT).size
    assert not path.exists()


def test_a_damaged_file_is_warned_of_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "queries.npz"
    first = QueryReservoir(path, SPACE)
    first.add(Modality.TEXT, unit_vectors(20), 10)
    first.close()
    sound = path.read_bytes()
    random = np.random.default_rng(5)
    damaged = [sound[: random.integers(len(sound))] for _ in range(30)]
    damaged += [
        sound[:place] + bytes([sound[place] ^ 0xFF]) + sound[place + 1 :]
        for place in random.integers(len(sound), size=100).tolist()
    ]
    warned = 0
    for content in damaged:
        path.write_bytes(content)
        caplog.clear()
        found = QueryReservoir(path, SPACE).sample(Modality.TEXT)
        warned += bool(caplog.records)
        assert len(found) == (0 if caplog.records else 20)
        assert not caplog.records or caplog.records[0].levelno == logging.WARNING
    assert warned > 100, "a flipped byte between the entries of a zip file may harm nothing"
    path.write_bytes(sound[:100])
    healed = QueryReservoir(path, SPACE)
    healed.add(Modality.TEXT, unit_vectors(2), 10)
    healed.close()
    assert len(QueryReservoir(path, SPACE).sample(Modality.TEXT)) == 2


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"format": np.array(2)}, "expected format 1, not 2"),
        ({"text_vectors": np.full((2, 4), np.nan, np.float32)}, "finite"),
        ({"text_vectors": np.zeros((2, 4), np.float32)}, "above 0"),
        ({"text_vectors": np.ones((2, 5), np.float32)}, r"expected \(2, 4\)"),
        ({"text_vectors": np.ones((2, 4), np.float64)}, "float64"),
        ({"text_k": np.array([None, None])}, "pickle"),
    ],
    ids=["format", "NaN", "zero", "dimension", "dtype", "pickle"],
)
def test_a_file_that_does_not_fit_the_space_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, arrays: dict[str, np.ndarray], reason: str
) -> None:
    path = tmp_path / "queries.npz"
    first = QueryReservoir(path, SPACE)
    first.add(Modality.TEXT, unit_vectors(2), 10)
    first.close()
    with np.load(path) as sound:
        whole = dict(sound)
    np.savez(path, **(whole | arrays))
    assert not QueryReservoir(path, SPACE).sample(Modality.TEXT).size
    assert caplog.records[0].message == "queries not loaded"
    assert re.search(reason, str(caplog.records[0].__dict__["reason"]))


def test_a_disk_that_fails_is_warned_of_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "gone"
    reservoir = QueryReservoir(folder / "queries.npz", SPACE)
    reservoir.add(Modality.TEXT, unit_vectors(2), 10)
    reservoir.save()
    assert [record.message for record in caplog.records] == ["queries not saved"]
    folder.mkdir()
    reservoir.save()
    assert len(QueryReservoir(folder / "queries.npz", SPACE).sample(Modality.TEXT)) == 2


def test_what_has_changed_is_saved_by_a_thread_and_nothing_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "queries.npz"
    reservoir = QueryReservoir(path, SPACE)
    with closing(ReservoirSaver(lambda: [reservoir], every_seconds=0.01)):
        reservoir.add(Modality.TEXT, unit_vectors(2), 10)
        deadline = time.monotonic() + 30
        while not path.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    reservoir.save()
    path.unlink()
    reservoir.save()
    assert not path.exists(), "nothing has changed"
    reservoir.close()
    reservoir.add(Modality.TEXT, unit_vectors(2), 10)
    reservoir.save()
    assert not path.exists(), "its folder may be gone"
