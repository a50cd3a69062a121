"""The disk refuses at every named point: the caller is told, nothing acknowledged is lost, and a repeat works."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from index_service import fault_points
from index_service.records import Delete
from service_runtime.errors import ResourceExhausted, ServiceError, Unavailable
from tests.faults.pets import SPACE, Pets, opened

ERRORS = {"ENOSPC": ResourceExhausted, "EIO": Unavailable}

WORK: dict[str, tuple[list[Callable[[Pets], None]], Callable[[Pets], None]]] = {
    "write": ([], Pets.write),
    "seal": ([Pets.write], Pets.seal),
    "merge": ([Pets.seal, Pets.write, Pets.seal, Pets.write, Pets.seal], Pets.merge),
    "config": ([], Pets.configure),
    "queries": ([], Pets.save_queries),
    "column": ([], Pets.filter),
    "tuning": ([], Pets.tune),
    "create": ([], Pets.create),
    "delete": ([Pets.create], Pets.delete),
    "snapshot": ([], Pets.snapshot),
    "restore": ([Pets.snapshot], Pets.restore),
}
"""What leads to a kind of point, and the work that passes it."""

DONE_WITHOUT = {"queries": "queries not saved", "column": "no columns"}
"""What the log says where nobody need be told."""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def fail(pets: Pets, work: Callable[[Pets], None], kind: str, error: str, caplog: pytest.LogCaptureFixture) -> None:
    """Do the work while its point is armed: it says what failed, in the words of its kind."""
    if kind in DONE_WITHOUT:
        with caplog.at_level(logging.WARNING):
            work(pets)
        assert any(record.message == DONE_WITHOUT[kind] for record in caplog.records)
        return
    expected = OSError if kind in ("seal", "merge") else ERRORS[error]
    with pytest.raises(expected) as raised:
        work(pets)
    if isinstance(raised.value, ServiceError):
        assert any(name in raised.value.message for name in ("'pets'", "'copy'", "'more'", str(pets.folder)))


@pytest.mark.parametrize("error", ["ENOSPC", pytest.param("EIO", marks=pytest.mark.long)])
@pytest.mark.parametrize("point", fault_points.POINTS)
def test_a_disk_that_refuses_once_is_told_of_and_got_over(
    point: str, error: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kind = point.partition(".")[0]
    before, work = WORK[kind]
    with opened(tmp_path) as pets:
        pets.catalog.create("pets", SPACE, 1)
        pets.write()
        pets.seal()
        pets.shard.write([Delete(["1/7"])])
        del pets.model["1/7"]
        for step in before:
            step(pets)
        fault_points.arm(f"{point}:1:{error}")
        fail(pets, work, kind, error, caplog)
        pets.check()
        assert pets.shard.read_only == (kind == "write")
        if point != "snapshot.after_manifest_rename":  # whole, and refused to be written over
            work(pets)
        assert not pets.shard.read_only
        pets.check()
        pets.write()
        pets.seal()
        pets.check()
        model, refused, names = pets.model, pets.refused, [one.spec.name for one in pets.catalog.by_name()]
    with opened(tmp_path) as pets:
        pets.model, pets.refused = model, refused
        assert [one.spec.name for one in pets.catalog.by_name()] == names
        pets.check()
        pets.check_no_leftovers()


@pytest.mark.parametrize("point", [point for point in fault_points.POINTS if point.startswith(("seal.", "merge."))])
def test_compaction_that_fails_again_and_again_fills_no_disk(point: str, tmp_path: Path) -> None:
    """Each try writes a segment before it finds out, and must not leave it."""
    before, work = WORK[point.partition(".")[0]]
    with opened(tmp_path) as pets:
        pets.catalog.create("pets", SPACE, 1)
        for step in [Pets.write, *before]:
            step(pets)
        sizes: list[int] = []
        fault_points.arm(f"{point}:1+:ENOSPC")
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                work(pets)
            sizes.append(sum(path.stat().st_size for path in tmp_path.rglob("segments/*/*")))
            pets.check()
        assert sizes == sizes[:1] * 3
        fault_points.arm("")
        work(pets)
        pets.check()
