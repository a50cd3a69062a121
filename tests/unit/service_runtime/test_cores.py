"""Cores: the affinity of the process, and the CPU limit of its container."""

import os
from pathlib import Path

import pytest

from service_runtime.cores import usable_cores


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)


def test_without_a_limit_all_that_the_affinity_allows(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == 4


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("6400000 100000", 4)],
)
def test_a_limit_of_cgroups_2_is_rounded_up(tmp_path: Path, limit: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 4), ("100000", 1), ("250000", 3)])
def test_a_limit_of_cgroups_1(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert usable_cores(tmp_path) == cores
