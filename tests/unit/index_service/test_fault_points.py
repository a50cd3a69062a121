"""Fault points: what can be armed, when it happens, and that nothing happens otherwise."""

import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from index_service import fault_points
from index_service.settings import SettingsError, read_settings

SERVICE = Path(fault_points.__file__).parent


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    fault_points.arm("")


def outcomes(name: str, times: int) -> list[int | None]:
    """The error numbers of passing a point so often."""
    found: list[int | None] = []
    for _ in range(times):
        try:
            fault_points.reach(name)
        except OSError as error:
            found.append(error.errno)
        else:
            found.append(None)
    return found


def test_nothing_happens_unless_armed() -> None:
    assert outcomes("write.before_commit", 3) == [None] * 3


def test_a_point_fails_at_its_time_and_no_other_does() -> None:
    fault_points.arm("write.before_commit:2:ENOSPC")
    assert outcomes("write.after_commit", 3) == [None] * 3
    assert outcomes("write.before_commit", 4) == [None, errno.ENOSPC, None, None]
    fault_points.arm("write.before_commit:2+:EIO")
    assert outcomes("write.before_commit", 4) == [None, errno.EIO, errno.EIO, errno.EIO]


def test_a_star_stands_for_the_work_under_way() -> None:
    fault_points.arm("merge.before_rename:1+:EIO")
    assert outcomes("*.before_rename", 1) == [None]
    with fault_points.during("seal"):
        assert outcomes("*.before_rename", 1) == [None]
        with fault_points.during("merge"):
            assert outcomes("*.before_rename", 1) == [errno.EIO]
        assert outcomes("*.before_rename", 1) == [None]


def test_arming_is_told_loudly(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fault_points.arm("seal.before_rename:3:kill")
    [record] = caplog.records
    assert "will fail" in record.message
    assert record.__dict__["fault"] == "seal.before_rename:3:kill"


@pytest.mark.parametrize(
    "armed",
    [
        "nowhere:1:kill",
        "seal.before_rename",
        "seal.before_rename:0:kill",
        "seal.before_rename:x:kill",
        "seal.before_rename:1:explode",
        "write.before_acknowledgement:1:EIO",
    ],
)
def test_what_can_not_be_armed_is_refused_as_a_setting(armed: str) -> None:
    with pytest.raises(SettingsError, match=r"^--fault-point: expected .*, not "):
        read_settings(["--data-folder", "d", "--fault-point", armed])


def test_the_names_are_those_in_the_source() -> None:
    passed = {
        name
        for path in SERVICE.glob("*.py")
        if path.name != "fault_points.py"
        for name in re.findall(r'\breach\("([^"]+)"\)', path.read_text("utf-8"))
    }
    assert {name for name in passed if not name.startswith("*")} <= set(fault_points.DEATH_POINTS)
    listed = {name if name in passed else re.sub(r"^\w+", "*", name) for name in fault_points.DEATH_POINTS}
    assert listed == passed
