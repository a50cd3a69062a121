"""How much memory a process holds, how much this one may, keeping freed memory for reuse, and giving it back.

Owns what is read of /proc and of control groups. Elsewhere than on Linux nothing is known, nothing said, nothing given.
"""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

_KINDS = {"RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}
_LINE = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
_set_option = getattr(ctypes.CDLL(None), "mallopt", None)

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 * 1024 * 1024
"""Bytes of a block; glibc's own highest threshold."""


def keep_freed_memory() -> None:
    """Have the blocks that this process frees, of up to 32 MB each, kept for the next, where glibc allows it.

    It gets there by itself, but only as such blocks happen to be freed. Until then each is taken from the system and
    returned, and every page of it is cleared anew: that took a tenth off a small model's forward passes, at random.
    """
    if _set_option is not None:
        _set_option(_MMAP_THRESHOLD, _LARGEST_KEPT)
        _set_option(_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)


def give_memory_back() -> None:
    """Return what was freed to the system, where glibc keeps up to 64 MB of it for each of its many arenas. Takes some
    milliseconds.
    """
    if _trim is not None:
        _trim(0)


def resident_bytes(proc: Path = Path("/proc"), process: int | Literal["self"] = "self") -> dict[str, int]:
    """Bytes in memory of a process, by kind: anonymous (which only the process itself, or its end, frees), file (mapped
    files, which the system can take back) and shared.
    """
    sizes = _sizes(proc / str(process) / "status")
    return {kind: sizes[name] for name, kind in _KINDS.items() if name in sizes}


def limit_bytes(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the process may hold at most: the least limit of its control groups (version 1 or 2), or all of the
    machine's memory. None where neither is known.
    """
    limits = [size for name, size in _sizes(proc / "meminfo").items() if name == "MemTotal"]
    for folder, file in _limit_files(proc / "self" / "cgroup", groups):
        text = _read(folder / file).strip()
        if text.isdecimal():  # "max" is none
            limits.append(int(text))
    return min(limits, default=None)


def _limit_files(described: Path, groups: Path) -> Iterator[tuple[Path, str]]:
    """The folders of the process's groups for memory, up to the root, each with the name of the file to read.

    Inside a container the process's own group is often mounted as the root, whatever its path is called outside.
    """
    for line in _read(described).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, file = (groups / "memory", "memory.limit_in_bytes") if controllers else (groups, "memory.max")
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            yield root / part, file


def _sizes(path: Path) -> dict[str, int]:
    """Bytes by name, of a file of lines such as ``RssAnon:  1234 kB``."""
    return {name: int(kibibytes) * 1024 for name, kibibytes in _LINE.findall(_read(path))}


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii", errors="replace")
    except OSError:
        return ""
