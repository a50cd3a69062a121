"""One flipped bit, or a tail cut off, in every file that a crashed service leaves: answers are right, or it says which
file is at fault. EYEBRIGHT_DAMAGE_SEED repeats a run.
"""

import logging
import os
import random
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from index_service.catalog import DataFolderError
from index_service.index_config import IndexConfig, Modality
from index_service.search import SearchOptions
from index_service.snapshot_task import Task
from service_runtime.errors import FailedPrecondition, ServiceError
from tests.faults.pets import DIMENSION, SPACE, Pets, opened

HARMLESS = {"lock", "records.sqlite-shm", "records.sqlite-acknowledged", "target.json"}
"""What a start makes anew, or does without."""

REFUSED_AT_MOST = re.compile(r"records\.sqlite(-wal)?|collection\.json")
"""The files without which a service can't answer; damage to any other must not keep it from starting."""


@dataclass(frozen=True)
class Crashed:
    """The files of a service that was killed, and what they held."""

    folder: Path
    model: dict[str, np.ndarray]
    config: IndexConfig
    queries: set[bytes]

    def files(self) -> list[Path]:
        return sorted(path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())


def kind_of(path: Path) -> str:
    if path.suffix == ".column":
        return "column"
    return "snapshot" if path.parts[0] == "snapshots" else path.name


def recorded(pets: Pets) -> set[bytes]:
    return {vector.tobytes() for vector in pets.collection.queries.sample(Modality.TEXT)}


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    folder = tmp_path_factory.mktemp("running")
    with opened(folder) as pets:
        pets.catalog.create("pets", SPACE, 1)
        for _ in range(6):
            pets.write()
        pets.merge()
        pets.write()
        pets.seal()
        pets.configure()
        queries = np.random.default_rng(3).standard_normal((20, DIMENSION)).astype(np.float32)
        pets.collection.search_vectors(queries, SearchOptions(5, modality=Modality.TEXT))
        pets.collection.queries.save()
        queries_kept = recorded(pets)
        pets.snapshot()
        with closing(sqlite3.connect(folder / "data/collections/pets/shard-000/records.sqlite")) as store:
            store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pets.write()
        pets.check()  # which makes a column of what it filters by
        copy = tmp_path_factory.mktemp("crashed") / "copy"
        shutil.copytree(folder, copy)
        return Crashed(copy, dict(pets.model), pets.collection.config, queries_kept)


def damaged(whole: bytes, how: str, chosen: random.Random) -> bytes:
    if how == "cut":
        return whole[: chosen.randrange(len(whole))]
    flipped = bytearray(whole)
    flipped[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
    return bytes(flipped)


def look(folder: Path, crashed: Crashed, caplog: pytest.LogCaptureFixture) -> str:
    """Open a damaged folder; what came of it, all answers having been right or refused with the file's name."""
    caplog.clear()
    try:
        with opened(folder) as pets:
            pets.model = dict(crashed.model)
            return answers(pets, crashed, caplog)
    except (DataFolderError, FailedPrecondition) as error:
        refusal = str(error)
    assert "\n" not in refusal
    assert str(folder) in refusal
    return "refused"


def answers(pets: Pets, crashed: Crashed, caplog: pytest.LogCaptureFixture) -> str:
    """Check all that is answered, and that the folder can be worked with. Raises FailedPrecondition."""
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert pets.collection.config == crashed.config or any("configuration" in record.message for record in warned)
    assert recorded(pets) == crashed.queries or any("queries" in record.message for record in warned)
    pets.check()
    pets.merge()  # first, for writes wait while so much is in memory
    pets.batches = 1_000
    pets.write()
    pets.check()
    return "told in the log" if warned else "nothing to tell"


def spoiled(crashed: Crashed, times: int, seed: int, tmp_path: Path) -> Iterator[tuple[Path, str, Path]]:
    """Folders in which one file is damaged, with that file and the kind of damage."""
    chosen = random.Random(seed)
    files = [path for path in crashed.files() if (crashed.folder / path).stat().st_size]
    stores = [path for path in files if path.name == "records.sqlite" and kind_of(path) != "snapshot"]
    for time in range(times):
        for path in [*files, *stores * 10]:
            how = "cut" if time % 3 == 1 else "flip"
            folder = tmp_path / "damaged"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(crashed.folder, folder)
            (folder / path).write_bytes(damaged((crashed.folder / path).read_bytes(), how, chosen))
            yield path, how, folder


def run(crashed: Crashed, times: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    seed = int(os.environ.get("EYEBRIGHT_DAMAGE_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_DAMAGE_SEED={seed}\n")
    outcomes: Counter[tuple[str, str, str]] = Counter()
    for path, how, folder in spoiled(crashed, times, seed, tmp_path):
        sys.stdout.write(f"{how} {path}\n")
        outcome = restore(folder) if kind_of(path) == "snapshot" else look(folder, crashed, caplog)
        if kind_of(path) in HARMLESS:
            assert outcome == "nothing to tell"
        elif outcome == "refused":
            assert kind_of(path) == "snapshot" or REFUSED_AT_MOST.fullmatch(path.name), (path, outcome)
        outcomes[kind_of(path), how, outcome] += 1
    for (kind, how, outcome), count in sorted(outcomes.items()):
        sys.stdout.write(f"{count:5} {how:4} {kind}: {outcome}\n")


def restore(folder: Path) -> str:
    """Restore a damaged snapshot, which is refused, and leaves nothing."""
    with opened(folder) as pets:
        with pytest.raises(ServiceError, match=r"damaged|no snapshot") as raised:
            pets.restore()
        assert str(folder / "snapshots") in raised.value.message
        assert [one.spec.name for one in pets.catalog.by_name()] == ["pets"]
        assert not list((folder / "data" / "collections").glob(".*"))
        pets.snapshots.create("pets", str(folder / "snapshots" / "other"), Task())
    return "refused"


def test_every_kind_of_file_is_there(crashed: Crashed) -> None:
    kinds = {kind_of(path) for path in crashed.files()}
    expected = {"collection.json", "index.json", "queries.npz", "manifest.json", "records.sqlite", "records.sqlite-wal"}
    segment = {"segment.json", "vectors.faiss", "codes.faiss", "rows.i64", "id-ends.u64", "ids.utf8"}
    assert expected | segment | {"snapshot", "column"} <= kinds


def test_damage_to_any_file_is_told_or_mended(
    crashed: Crashed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(crashed, 2, tmp_path, caplog)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_damage_to_any_place_of_any_file_is_told_or_mended(
    crashed: Crashed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(crashed, 60, tmp_path, caplog)
