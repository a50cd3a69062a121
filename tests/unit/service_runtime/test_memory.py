import subprocess
import sys
from pathlib import Path

import pytest

from service_runtime.memory import give_memory_back, limit_bytes, resident_bytes

GIB = 1024**3


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    (folder / "meminfo").write_text("MemTotal:       8388608 kB\nMemFree:        1024 kB\n")
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_memory_is_told_by_kind(proc: Path) -> None:
    write(
        proc / "self" / "status",
        "Name:\tpython\nVmRSS:\t    60 kB\nRssAnon:\t    10 kB\nRssFile:\t 20 kB\nRssShmem:\t 30 kB\n",
    )
    assert resident_bytes(proc) == {"anonymous": 10_240, "file": 20_480, "shared": 30_720}


def test_this_process_has_some() -> None:
    known = resident_bytes()
    assert known["anonymous"] > 1024 * 1024
    assert (limit_bytes() or 0) > known["anonymous"]


def test_the_least_limit_of_all_groups_above_counts(proc: Path, groups: Path) -> None:
    write(proc / "self" / "cgroup", "0::/kubepods/pod1/container\n")
    write(groups / "kubepods" / "pod1" / "container" / "memory.max", "max\n")
    write(groups / "kubepods" / "pod1" / "memory.max", f"{2 * GIB}\n")
    write(groups / "kubepods" / "memory.max", f"{4 * GIB}\n")
    assert limit_bytes(proc, groups) == 2 * GIB


def test_inside_a_container_its_own_group_is_the_root(proc: Path, groups: Path) -> None:
    write(proc / "self" / "cgroup", "0::/../../elsewhere\n")
    write(groups / "memory.max", f"{3 * GIB}\n")
    assert limit_bytes(proc, groups) == 3 * GIB


@pytest.mark.parametrize("controllers", ["memory", "cpu,memory"])
def test_groups_of_the_first_version_are_known(proc: Path, groups: Path, controllers: str) -> None:
    write(proc / "self" / "cgroup", f"5:cpuset:/a\n4:{controllers}:/docker/one\n0::/\n")
    write(groups / "memory" / "docker" / "one" / "memory.limit_in_bytes", f"{GIB}\n")
    write(groups / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    assert limit_bytes(proc, groups) == GIB


def test_without_a_limit_it_is_the_machines_memory(proc: Path, groups: Path) -> None:
    write(proc / "self" / "cgroup", "0::/\n")
    assert limit_bytes(proc, groups) == 8 * GIB


def test_where_nothing_is_known_nothing_is_said(tmp_path: Path) -> None:
    assert resident_bytes(tmp_path) == {}
    assert limit_bytes(tmp_path, tmp_path) is None


def test_freed_memory_is_given_back() -> None:
    pieces = [b"x" * (100_000 + row) for row in range(1_000)]  # small enough for glibc to keep
    held = resident_bytes()["anonymous"]
    last = pieces.pop()  # keeps the top of the heap in use
    pieces.clear()
    give_memory_back()
    assert resident_bytes()["anonymous"] < held - 80_000_000
    assert last


FAULTS = """
import resource, sys
import numpy as np
from service_runtime.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for turn in range(12):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [np.ones(8 * 2**20, np.uint8) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_freed_memory_is_kept_for_the_next_blocks() -> None:
    def faults(how: str) -> int:
        command = [sys.executable, "-c", FAULTS, how]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    assert faults("keep") < faults("leave") / 4
