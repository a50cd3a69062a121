"""The paper's three tables, measured again beside Eyebright: ``python -m benchmarks.paper_tables --help``.

Owns the order of the steps, most telling first, and what each needs. Every index's figures are kept under ``--work``
and skipped when they are there; the page is written anew after each step, so that a run can be stopped at any time.
torch works in processes of its own.
"""

import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from eyebright_cli.evaluate.metrics import Estimate

from benchmarks.accuracy import Experiment
from benchmarks.cross_modal import CrossModalSpace
from benchmarks.dataset import Dataset
from benchmarks.paper import brute_force, hosted, indexes, page, plots, why
from benchmarks.paper.growth import size
from benchmarks.paper.published import FLAT, HITS, HNSW, IVF, LSH, RECALL
from benchmarks.paper.results import Measured, Point, Results
from benchmarks.paper.task import CAPTIONS, IMAGES, Task, exact_recall
from benchmarks.paper.vagueness import blur, scale_for
from benchmarks.report import machine, put
from index_service.recipes import Build, Effort, Recipe

SEED = 1
_FRONT_QUERIES = 300
_GRID_ROWS = 100_000
_K_FACTORS = (20.0, 50.0, 100.0, 200.0, 400.0)
_PROBED_SHARES = (0.01, 0.03, 0.1)
_VAGUE = "1152"
"""The set whose captions are made as vague as the paper's; its Table 1 is of that model too."""

_SOON_BUILT = (FLAT, IVF, LSH)
"""A graph of a million takes a quarter of an hour, and comes last."""

_DIMENSIONS = {"768": 768, "1152": 1152}
_GRIDS = ("1152", "768", "scenes")
_SHOWN_TRAPS = (
    "captions padded to the longest of 8",
    "values divided by 255 twice",
    "resized to 73 pixels first (as 256 for a model of 224), then to 64",
    "Captions Written Like This, not lower-cased",
    "vectors not scaled to length 1, L2 distance",
    "half of the pictures by another checkpoint of the same size",
    "captions by another checkpoint of the same size",
)


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is."""

    command: str
    scenes: int
    rows: int
    sizes: tuple[int, ...]
    """Numbers of pictures, for latency against them."""


FULL = Scale("make bench-paper", 100_000, 1_000_000, (10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000))
QUICK = Scale("make bench-paper-quick", 10_000, 50_000, (10_000, 50_000))


class Run:
    """The steps over one folder, and the page."""

    def __init__(self, scale: Scale, work: Path, output: Path, pictures: Path) -> None:
        self._scale, self._work, self._output, self._pictures = scale, work, output, pictures
        self.results = Results(work / "paper" / scale.command.removeprefix("make "))
        self._task: tuple[str, Task] | None = None

    def steps(self) -> dict[str, Callable[[], None]]:
        """By name, most telling first."""
        return {
            "gallery": lambda: self._whole_set("gallery", (*_SOON_BUILT, HNSW), (hosted.EXACT,)),
            "scenes": lambda: self._whole_set("scenes", (*_SOON_BUILT, HNSW), hosted.WAYS),
            "768": lambda: self._in_process("768"),
            "768-hosted": lambda: self._hosted("768", hosted.WAYS),
            "1152": lambda: self._in_process("1152"),
            "1152-hosted": lambda: self._hosted("1152", hosted.WAYS),
            "why": self._why,
            "traps": self._traps,
            "front": self._front,
            "growth": self._growth,
            "768-hnsw": lambda: self._indexes("768", (HNSW,)),
            "1152-hnsw": lambda: self._indexes("1152", (HNSW,)),
            "768-hosted-hnsw": lambda: self._hosted("768", (hosted.HNSW,)),
        }

    def _of(self, name: str) -> Task:
        """One dataset at a time: they are gigabytes."""
        if self._task is None or self._task[0] != name:
            self._task = None
            self._task = name, self._make(name)
        return self._task[1]

    def _make(self, name: str) -> Task:
        if name == "gallery":
            return Task(Dataset.gallery(self._work))
        if name == "scenes":
            data = Dataset.scenes(self._work, self._scale.scenes, SEED, CAPTIONS)
            return Task(data, data.set_aside(IMAGES))
        dimension = _DIMENSIONS[name]
        data = Dataset.generated(self._work, self._scale.rows, dimension, SEED, CAPTIONS)
        task = Task(data, CrossModalSpace(dimension, SEED).strangers(IMAGES))
        if name == _VAGUE:
            blur(task, self._vagueness(task))
        return task

    def _vagueness(self, task: Task) -> float:
        facts = self.results.facts("vagueness")
        if facts is None:
            facts = {"scale": scale_for(task, RECALL[FLAT][10])}
            self.results.keep_facts("vagueness", facts)
        return float(facts["scale"])

    def _whole_set(self, name: str, kinds: Sequence[str], ways: Sequence[hosted.Way]) -> None:
        self._indexes(name, kinds)
        self._hosted(name, ways)

    def _in_process(self, name: str) -> None:
        self._indexes(name, _SOON_BUILT)
        measures: dict[str, Callable[[Task, tuple[int, ...]], Measured]] = {
            "python": brute_force.in_python,
            "numpy": brute_force.in_numpy,
            "all-threads": indexes.with_all_threads,
        }
        for key, measure in measures.items():
            self._missing(f"{name}-{key}", lambda measure=measure: measure(self._of(name), HITS))  # type: ignore[misc]

    def _indexes(self, name: str, kinds: Sequence[str]) -> None:
        if not self.results.has(f"{name}-all"):
            task = self._of(name)
            facts = {key: asdict(own) for key, own in exact_recall(task).items()}
            vague = " made so vague that exact search finds as many as in the paper" if name == _VAGUE else ""
            title = f"{task.data.title}; {len(task.captions):,} captions{vague}"
            self.results.keep_facts(f"{name}-all", {"title": title, "depth": task.depth, "recall": facts})
        for kind in indexes.PAPER_INDEXES:
            if kind.name in kinds:
                self._missing(f"{name}-{kind.name}", lambda kind=kind: indexes.measure(kind, self._of(name), HITS))  # type: ignore[misc]

    def _missing(self, key: str, measure: Callable[[], Measured]) -> None:
        if not self.results.has(key):
            self.results.keep(key, measure())
            self.write()

    def _hosted(self, name: str, ways: Sequence[hosted.Way]) -> None:
        folder = self._work / "paper" / "service"
        hosted.measure_missing(lambda: self._of(name), self.results, name, folder, ways, HITS, self.write)

    def _front(self) -> None:
        """More efforts of two recipes, in this process and on one thread, like the paper's indexes."""
        if self.results.has("front"):
            return
        task = self._of("768")
        assert task.images is not None
        task.let_go()
        data = task.data.first(task.data.rows)
        data.captions = task.captions[:_FRONT_QUERIES]
        images = task.images[:_FRONT_QUERIES]
        truth = {
            "captions": task.truth("captions")[:_FRONT_QUERIES, :10],
            "images": task.truth("images")[:_FRONT_QUERIES, :10],
        }
        experiment = Experiment(data, images, truth)
        experiment.ours(Build(Recipe.FASTSCAN), [Effort(k_factor) for k_factor in _K_FACTORS])
        in_cells = [Effort(k_factor, share) for share in _PROBED_SHARES for k_factor in _K_FACTORS]
        experiment.ours(Build(Recipe.IVF_FASTSCAN), in_cells)
        lines: dict[str, list[dict[str, Any]]] = {}
        for point in experiment.points:
            own = Point(point.setting, point.captions, point.images, point.milliseconds / 1e3)
            lines.setdefault(f"{point.line}, in process", []).append(asdict(own))
        self.results.keep_facts("front", lines)
        self.write()

    def _why(self) -> None:
        for name in _GRIDS:
            if not self.results.has(f"why-{name}"):
                whole = self._of(name)
                assert whole.images is not None
                task = whole.among(_GRID_ROWS)
                found = why.grid(task)
                title = f"{task.data.rows:,} of {whole.data.title}{', its captions made vague' * (name == _VAGUE)}"
                self.results.keep_facts(f"why-{name}", {"title": title, "grid": found})
                self.write()

    def _traps(self) -> None:
        if not self.results.has("traps"):
            aside = self._work / "paper" / "traps.json"
            command = [sys.executable, "-m", "benchmarks.traps", "--json", str(aside)]
            subprocess.run(command, check=True)  # noqa: S603 - our own module
            self.results.keep_facts("traps", json.loads(aside.read_text("utf-8")))
            self.write()

    def _growth(self) -> None:
        for rows in self._scale.sizes:
            if not self.results.has(f"growth-{rows}"):
                self._task = None
                data = Dataset.generated(self._work, max(self._scale.sizes), 768, SEED, CAPTIONS)
                self.results.keep_facts(f"growth-{rows}", size(data, rows, self._work / "paper" / "service"))
                self.write()

    def write(self) -> None:
        """The page, of what is there."""
        for name in ("gallery", "scenes", *_DIMENSIONS):
            self._write_recall(name)
        for name in _DIMENSIONS:
            self._write_seconds(name)
        self._write_front()
        self._write_why()
        self._write_growth()

    def _put(self, mark: str, lines: Iterable[str], step: str) -> None:
        alone = f"python -m benchmarks.paper_tables {self._alone(step)}"
        made_by = f"Made by `{self._scale.command}`; this part alone by `{alone}`."
        put(self._output, f"paper {mark}", "\n".join([*lines, "", made_by]), self._scale.command)

    def _alone(self, step: str) -> str:
        quick = " --quick" if self._scale is QUICK else ""
        return f"--work FOLDER --only {step}{quick}"

    def _measured(self, name: str) -> list[Measured]:
        keys = [*_SOON_BUILT, HNSW, *(way.key for way in (*hosted.WAYS, hosted.HNSW))]
        return [own for own in (self.results.get(f"{name}-{key}") for key in keys) if own is not None]

    def _write_recall(self, name: str) -> None:
        facts = self.results.facts(f"{name}-all")
        if facts is None:
            return
        exact = {key: Estimate(**own) for key, own in facts["recall"].items()}
        measured = self._measured(name)
        title = f"{facts['title']}; {machine()}. In brackets: 95 % bootstrap intervals."
        table = page.table_of_recall(measured, exact, facts["depth"], paper=name in _DIMENSIONS)
        verdict = page.verdict(exact, measured) if name in _DIMENSIONS else ()
        self._put(f"recall {name}", [title, "", *table, "", *verdict], name)

    def _write_seconds(self, name: str) -> None:
        brute = [self.results.get(f"{name}-{key}") for key in ("python", "numpy", "all-threads")]
        measured = [*(own for own in brute if own is not None), *self._measured(name)]
        flat = self.results.get(f"{name}-{FLAT}")
        if flat is None:
            return
        title = (
            f"{self._scale.rows:,} x {name} of the generator, seed {SEED}; {machine()}. One picture is searched after "
            "another: median (quartiles), as a ratio to IndexFlatL2 of the same run. FAISS in process on one thread; "
            "Eyebright over gRPC by the SDK, the service on all cores."
        )
        table = page.table_of_seconds(_DIMENSIONS[name], measured, flat, HITS, paper=True)
        self._put(f"seconds {name}", [title, "", *table], name)
        caption = f"{self._scale.rows:,} x {name}; dotted: the paper's own machine"
        plots.by_hits(measured, _DIMENSIONS[name], self._pictures / f"paper-seconds-{name}.png", caption)

    def _write_front(self) -> None:
        measured = {own.name: own.points for own in self._measured("768") if own.points}
        lines = {name: points for name, points in measured.items() if name in (*_SOON_BUILT, HNSW)}
        more = self.results.facts("front") or {}
        lines |= {name: [Point(**own) for own in points] for name, points in more.items()}
        lines |= {f"{name}, over gRPC": points for name, points in measured.items() if name not in lines}
        if FLAT in lines:
            title = f"{self._scale.rows:,} x 768 of the generator; in process on one thread where nothing else is said"
            plots.front(lines, self._pictures / "paper-front.png", title)
            self._put("front", page.table_of_front(lines), "front")

    def _write_why(self) -> None:
        for name in _GRIDS:
            facts = self.results.facts(f"why-{name}")
            if facts is not None:
                self._put(f"why {name}", [f"{facts['title']}.", "", *page.table_of_grid(facts["grid"])], "why")
        traps = self.results.facts("traps")
        if traps is not None:
            rows = [row for row in traps["rows"] if row["what"] in _SHOWN_TRAPS]
            self._put("traps", [traps["title"], "", *page.table_of_traps(rows)], "traps")
        chosen = [
            f"- {name}: {own.setting}"
            for name in ("scenes", *_DIMENSIONS)
            if (own := self.results.get(f"{name}-tuned"))
        ]
        if chosen:
            self._put("tuner", chosen, "768-hosted")

    def _write_growth(self) -> None:
        found = [self.results.facts(f"growth-{rows}") for rows in self._scale.sizes]
        sizes = [own for own in found if own is not None]
        if sizes:
            title = f"The generator's first pictures, 768 dimensions, seed {SEED}; {machine()}. One caption, ten hits."
            self._put("growth", [title, "", *page.table_of_growth(sizes)], "growth")
            plots.by_rows(sizes, self._pictures / "paper-growth.png", "one caption, ten hits; 768 dimensions")


def main(
    work: Annotated[Path, typer.Option(help="Folder for vectors and for what was measured (both are kept).")],
    output: Annotated[Path, typer.Option(help="Markdown file to put the tables into.")],
    pictures: Annotated[Path, typer.Option(help="Folder for the plots.")],
    only: Annotated[list[str] | None, typer.Option(help="Step to run, and no other; may be repeated.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small sets, in minutes.")] = False,
) -> None:
    """Measure the paper's indexes and Eyebright's on the same work; go on where the last run stopped."""
    run = Run(QUICK if quick else FULL, work, output, pictures)
    steps = run.steps()
    unknown = set(only or ()) - set(steps)
    if unknown:
        raise typer.BadParameter(
            f"expected some of {', '.join(steps)}, not {', '.join(sorted(unknown))}", param_hint="--only"
        )
    failed = [name for name, step in steps.items() if (not only or name in only) and not _done(name, step)]
    run.write()
    if failed:
        typer.echo(f"failed, and tried again by the same command: {', '.join(failed)}", err=True)
        raise typer.Exit(1)


def _done(name: str, step: Callable[[], None]) -> bool:
    """Run a step; whether it came to its end. Hours of others are not lost to one that fails."""
    began = time.perf_counter()
    typer.echo(f"{name} ...")
    try:
        step()
    except Exception:
        traceback.print_exc()
        return False
    typer.echo(f"{name}: {time.perf_counter() - began:.0f} s")
    return True


if __name__ == "__main__":
    typer.run(main)
