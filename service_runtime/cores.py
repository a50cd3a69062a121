"""How many cores this process may use."""

import os


def usable_cores() -> int:
    """Cores that the process is allowed to run on; where the system can't say (macOS), the cores of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
