"""A sample of the recent queries of one collection, captions and images apart.

Owns which queries are kept, and the file they outlive a restart in. Knows nothing of what is done with them.

Queries that are records of the collection are not kept. Their vectors are at hand anyway, and they lie among what is
searched: an index that is tuned on them promises more than captions will see.
"""

import logging
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from index_service.fault_points import reach
from index_service.index_config import Modality
from index_service.segment_folder import sync_folder
from index_service.vector_space import VectorSpace

QUERIES_FILE = "queries.npz"
"""Name of the file in a collection's folder: arrays of numbers alone, no pickle."""

CAPACITY = 512
"""Queries of each modality that are kept, unless said otherwise."""

_FORMAT = 1
_MEMORY_PER_PLACE = 32
_SAVE_SECONDS = 60.0
_KEPT = (Modality.TEXT, Modality.IMAGE)

_logger = logging.getLogger("eyebright.queries")


class QueryReservoir:
    """The sample of one collection. Any thread may call it."""

    def __init__(self, path: Path, space: VectorSpace, capacity: int = CAPACITY, seed: int | None = None) -> None:
        """Load what the file holds; one that is damaged is warned of and ignored.

        ``capacity`` 0 keeps nothing, and removes what was kept before.
        """
        self._path = path
        self._space = space
        random_numbers = random.Random(seed)  # noqa: S311 - no secret
        self._samples = {modality: _RecentSample(capacity, random_numbers) for modality in _KEPT}
        self._adding = threading.Lock()
        self._saving = threading.Lock()
        self._changed = False
        self._closed = False
        if capacity:
            self._load()
        else:
            path.unlink(missing_ok=True)

    def add(self, modality: Modality, vectors: np.ndarray, k: int) -> None:
        """Take in queries (n, dimension) float32, prepared for the space, and the ``k`` that was asked of each."""
        sample = self._samples.get(modality)
        if sample is None or not sample.capacity:
            return
        with self._adding:
            for vector in vectors:
                if sample.add(vector, k):
                    self._changed = True

    def sample(self, modality: Modality) -> np.ndarray:
        """The vectors (n, dimension) float32 of one modality, prepared for the space, in no order."""
        return self.recorded(modality)[0]

    def recorded(self, modality: Modality) -> tuple[np.ndarray, np.ndarray]:
        """The vectors (n, dimension) float32 of one modality, in no order, and the k (n,) int64 asked of each."""
        with self._adding:
            rows = list(self._samples[modality].rows) if modality in self._samples else []
        vectors = np.empty((len(rows), self._space.dimension), dtype=np.float32)
        for row, (vector, _) in enumerate(rows):
            vectors[row] = vector
        return vectors, np.array([k for _, k in rows], dtype=np.int64)

    def save(self) -> None:
        """Write what has changed to the file, durably. A disk that fails is warned of."""
        with self._saving:
            if self._closed or not self._changed:
                return
            self._changed = False
            try:
                self._write()
            except OSError as error:
                self._changed = True
                _logger.warning("queries not saved", extra={"path": str(self._path), "reason": str(error)})

    def close(self) -> None:
        """Save, for the last time."""
        self.save()
        with self._saving:
            self._closed = True

    def _write(self) -> None:
        arrays: dict[str, np.ndarray] = {"format": np.array(_FORMAT)}
        for modality, sample in self._samples.items():
            vectors, ks = self.recorded(modality)
            arrays |= {
                f"{modality.value.lower()}_vectors": vectors,
                f"{modality.value.lower()}_k": ks,
                f"{modality.value.lower()}_seen": np.array(sample.seen, dtype=np.int64),
            }
        aside = self._path.with_suffix(".writing")
        reach("queries.before_writing")
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        reach("queries.before_rename")
        aside.replace(self._path)
        reach("queries.after_rename")
        sync_folder(self._path.parent)

    def _load(self) -> None:
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                loaded = {modality: self._read(arrays, modality.value.lower()) for modality in _KEPT}
        except FileNotFoundError:
            return
        except Exception as error:  # numpy and zipfile raise all sorts of errors for what they can't read
            _logger.warning("queries not loaded", extra={"path": str(self._path), "reason": str(error)})
            return
        for modality, (vectors, ks, seen) in loaded.items():
            self._samples[modality].restore(list(zip(vectors, ks, strict=True)), seen)

    def _read(self, arrays: np.lib.npyio.NpzFile, name: str) -> tuple[np.ndarray, list[int], int]:
        """The vectors, k and count of one modality. Raises KeyError or ValueError."""
        if int(arrays["format"]) != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, not {arrays['format']}")
        vectors, ks, seen = (arrays[f"{name}_{part}"] for part in ("vectors", "k", "seen"))
        expected = (len(ks), self._space.dimension)
        if vectors.shape != expected or vectors.dtype != np.float32 or ks.dtype != np.int64:
            raise ValueError(f"expected {expected} float32 and int64, not {vectors.shape} {vectors.dtype}, {ks.dtype}")
        if faults := self._space.prepare(vectors)[1]:
            raise ValueError(f"{name}_vectors: {next(iter(faults.values()))}")
        return vectors, ks.tolist(), max(int(seen), len(ks))


class ReservoirSaver:
    """One thread that saves what has changed in all reservoirs, once a minute."""

    def __init__(
        self, reservoirs: Callable[[], Sequence[QueryReservoir]], every_seconds: float = _SAVE_SECONDS
    ) -> None:
        """``reservoirs`` gives those that exist now."""
        self._reservoirs = reservoirs
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="save-queries", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what has changed since is saved when each reservoir is closed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._every_seconds):
            for reservoir in self._reservoirs():
                reservoir.save()


class _RecentSample:
    """A sample of a stream in which every query has the same chance for a while, and older ones fade after.

    The first ``capacity * 32`` queries are sampled uniformly: Algorithm R of Vitter, Random sampling with a reservoir
    (ACM TOMS 11, 1985). From then on each query enters with a chance of 1/32, in a random place, so that the chance to
    be there falls exponentially with age: Algorithm 3.1 of Aggarwal, On biased reservoir sampling in the presence of
    stream evolution (VLDB 2006).
    """

    def __init__(self, capacity: int, random_numbers: random.Random) -> None:
        self.capacity = capacity
        self.rows: list[tuple[np.ndarray, int]] = []
        self.seen = 0
        self._random = random_numbers

    def add(self, vector: np.ndarray, k: int) -> bool:
        """Take in one query; whether it was kept."""
        self.seen += 1
        if len(self.rows) < self.capacity:
            self.rows.append((vector.copy(), k))
            return True
        place = self._random.randrange(min(self.seen, self.capacity * _MEMORY_PER_PLACE))
        if place < self.capacity:
            self.rows[place] = vector.copy(), k
            return True
        return False

    def restore(self, rows: list[tuple[np.ndarray, int]], seen: int) -> None:
        """Go on from a sample that was saved; one of a larger capacity is thinned."""
        self.rows = self._random.sample(rows, min(len(rows), self.capacity))
        self.seen = seen
