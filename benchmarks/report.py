"""A table of figures: on the terminal, and between two marks in a Markdown file, where what stands around it stays.

Owns its form, and the verdict on each figure. Imports neither torch nor FAISS, which never share a process.
"""

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

_HEAD = ("what", "measured", "reference in the same run", "at least", "aim", "")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should reach. Lower is better where ``aim`` is below ``least``, or where ``lower`` says so."""

    least: float
    aim: float | None = None
    unit: str = ""
    lower: bool = True

    def verdict(self, value: float) -> str:
        """Whether the figure reaches the least, or the aim."""
        reached = [
            goal is not None and (value <= goal if self.lower else value >= goal) for goal in (self.least, self.aim)
        ]
        return "aim" if reached == [True, True] else "met" if reached[0] else "**missed**"

    def said(self, goal: float | None) -> str:
        """One of the goals, in words."""
        if goal is None:
            return ""
        return f"{'<=' if self.lower else '>='} {goal:,.6g}{self.unit}"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table."""

    what: str
    measured: str
    reference: str = ""
    goal: Goal | None = None
    value: float = 0.0
    """The number that is held against the goal."""

    def cells(self) -> tuple[str, ...]:
        """The line."""
        if self.goal is None:
            return self.what, self.measured, self.reference, "", "", ""
        least, aim = self.goal.said(self.goal.least), self.goal.said(self.goal.aim)
        return self.what, self.measured, self.reference, least, aim, self.goal.verdict(self.value)


def machine(package: str = "faiss-cpu") -> str:
    """What the figures were measured on, in words, with the version of the package that does the work."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    width = next((name for name in ("avx512f", "avx2") if name in flags), platform.machine())
    name = {"faiss-cpu": "FAISS"}.get(package, package)
    return f"{os.cpu_count()} cores ({platform.machine()}, {width}), {name} {version(package)}"


def report(figures: list[Figure], title: str, path: Path | None, mark: str) -> None:
    """Print the table, and put it into a Markdown file in the place of the last one with this mark."""
    table = Table(*_HEAD, title=title)
    for figure in figures:
        table.add_row(*figure.cells())
    Console(width=170).print(table)
    if path is not None:
        lines = [_HEAD, ("---",) * len(_HEAD), *(figure.cells() for figure in figures)]
        put(path, mark, f"{title}.\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def put(path: Path, mark: str, text: str, command: str = "make bench") -> None:
    """Write a text into a file between the marks of this name, or at its end when it has none."""
    begin, end = f"<!-- {mark}: written by {command} -->", f"<!-- end of {mark} -->"
    block = f"{begin}\n{text}\n{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    old = path.read_text("utf-8") if path.exists() else ""
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new = pattern.sub(lambda _: block, old) if pattern.search(old) else f"{old}\n{block}\n".lstrip("\n")
    path.write_text(new, "utf-8")
