"""Values that follow their files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service_runtime import reloading
from service_runtime.reloading import Reloading, ReloadMetrics


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reloading, "_LOOK_SECONDS", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("1")
    return path


def counting(path: Path, reads: list[str]) -> Callable[[], int]:
    def read() -> int:
        reads.append(path.read_text())
        if not reads[-1].isdigit():
            raise OSError(f"expected digits, not {reads[-1]}")
        return int(reads[-1])

    return read


def test_a_file_is_read_again_only_when_it_changes(file: Path) -> None:
    reads: list[str] = []
    value = Reloading("number", [file], counting(file, reads))
    assert [value.get() for _ in range(3)] == [1, 1, 1]
    assert reads == ["1"]
    file.write_text("22")
    assert [value.get() for _ in range(3)] == [22, 22, 22]
    assert reads == ["1", "22"]


def test_what_can_not_be_read_is_counted_once_and_the_value_stays(file: Path) -> None:
    registry, reads = CollectorRegistry(), list[str]()
    value = Reloading("number", [file], counting(file, reads), ReloadMetrics(registry))

    def failures() -> float | None:
        return registry.get_sample_value("eyebright_reload_failures_total", {"what": "number"})

    assert failures() == 0
    file.write_text("x")
    assert [value.get() for _ in range(3)] == [1, 1, 1]
    assert (reads, failures()) == (["1", "x"], 1)
    file.unlink()
    assert (value.get(), value.get(), failures()) == (1, 1, 2)
    file.write_text("3")
    assert (value.get(), failures()) == (3, 2)


def test_what_changes_while_it_is_read_is_read_again(file: Path) -> None:
    reads: list[str] = []

    def read() -> int:
        number = counting(file, reads)()
        if number == 2:
            file.write_text("30")  # as by a writer between two files of a pair
        return number

    value = Reloading("number", [file], read)
    file.write_text("2")
    assert value.get() == 1
    assert value.get() == 30


def test_a_file_made_readable_is_noticed(file: Path) -> None:
    reads: list[str] = []

    def read() -> int:
        if not file.stat().st_mode & 0o040:
            raise OSError("not for this group")
        return counting(file, reads)()

    file.chmod(0o640)
    value = Reloading("number", [file], read)
    file.write_text("2")
    file.chmod(0o600)
    assert value.get() == 1
    file.chmod(0o640)
    assert value.get() == 2


def test_a_file_that_is_wrong_at_first_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reloading("number", [tmp_path / "none"], lambda: int((tmp_path / "none").read_text()))
