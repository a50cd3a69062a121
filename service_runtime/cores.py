"""How many cores this process may use."""

import math
import os
from pathlib import Path

CGROUP_FOLDER = Path("/sys/fs/cgroup")


def usable_cores(cgroup_folder: Path = CGROUP_FOLDER) -> int:
    """Cores that the process is allowed to run on; where the system can't say (macOS), the cores of the machine.

    In a container, no more than its CPU limit, rounded up: threads past it would only be held back in turn.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _cpu_limit(cgroup_folder)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def _cpu_limit(folder: Path) -> float | None:
    """Cores by the kernel's quota, as a container sees its own control group (version 2, else 1); None without one."""
    try:
        quota, period = (folder / "cpu.max").read_text("ascii").split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu" / "cpu.cfs_quota_us").read_text("ascii").strip()
            period = (folder / "cpu" / "cpu.cfs_period_us").read_text("ascii").strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdecimal() and int(period) else None
