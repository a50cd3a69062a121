"""How latency and memory grow with a collection: ``python -m benchmarks.growth --help``.

Owns the sizes, and the picture. Every size is tuned to recall@10 >= 0.99 and stands beside IndexFlatIP in the same run.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from matplotlib.figure import Figure as Picture

from benchmarks.dataset import QUERIES, Dataset, shared
from benchmarks.in_process import Exact, InProcess
from benchmarks.index_server import IndexServer
from benchmarks.report import machine, put

K = 10
_SIZES = ((100_000, 768), (1_000_000, 768), (100_000, 256), (1_000_000, 256), (4_000_000, 256))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a collection of one size takes."""

    rows: int
    dimension: int
    recipe: str
    recall: float
    milliseconds: float
    """Median of one caption in process."""
    exact_milliseconds: float
    """The same of IndexFlatIP, one thread."""
    memory_megabytes: float
    """RssAnon at rest."""

    def line(self) -> str:
        """Of the table."""
        return (
            f"| {self.rows:,} | {self.dimension} | {self.recipe} | {self.recall:.4f} | {self.milliseconds:.2f} "
            f"| {self.exact_milliseconds:.1f} | {self.exact_milliseconds / self.milliseconds:.0f}x "
            f"| {self.memory_megabytes:,.0f} |"
        )


def cost(data: Dataset, folder: Path, shards: int) -> Cost:
    """Index, tune and search one size."""
    shutil.rmtree(folder, ignore_errors=True)
    captions = data.captions[1::2]
    singles = [captions[number : number + 1] for number in range(len(captions))]
    with IndexServer(folder) as server:
        server.create(data.dimension, shards)
        for _ in server.stream(data.batches(np.arange(data.rows))):
            pass
        server.wait_until_compacted()
        chosen = server.optimize(data.captions[0::2], target_recall=0.99, k=K)
        server.wait_until_compacted()
        found = [list(server.search(query, K).results[0].ids) for query in singles]
        memory = server.anonymous_bytes() / 1e6
    with InProcess(folder / "data") as inside:
        seconds, exact_seconds = inside.beside(Exact(data), singles, K)
    shutil.rmtree(folder)
    recall = shared(found, data.truth(captions, K))
    return Cost(data.rows, data.dimension, str(chosen), recall, 1e3 * seconds, 1e3 * exact_seconds, memory)


def draw(costs: list[Cost], path: Path) -> None:
    """Latency on the left, memory on the right."""
    picture = Picture(figsize=(10.0, 4.2), layout="constrained")
    left, right = picture.subplots(1, 2)
    for dimension, colour in ((768, "#0969da"), (256, "#1a7f37")):
        own = [one for one in costs if one.dimension == dimension]
        rows = [one.rows for one in own]
        left.plot(
            rows, [one.milliseconds for one in own], "o-", color=colour, label=f"Eyebright, {dimension} dimensions"
        )
        left.plot(rows, [one.exact_milliseconds for one in own], "o:", color=colour, label=f"IndexFlatIP, {dimension}")
        right.plot(rows, [one.memory_megabytes for one in own], "o-", color=colour, label=f"{dimension} dimensions")
    left.set_yscale("log")
    left.set_ylabel("median of one caption, ms")
    right.set_ylim(bottom=0)
    right.set_ylabel("RssAnon at rest, MB")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("records")
        axes.grid(color="#d0d7de", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)


def main(
    work: Annotated[Path, typer.Option(help="Folder for the vectors (kept) and the service's data (removed).")],
    picture: Annotated[Path, typer.Option(help="PNG to draw.")],
    output: Annotated[Path, typer.Option(help="Markdown file to put the table into.")],
    largest: Annotated[int, typer.Option(help="Leave larger sizes out.")] = 4_000_000,
    shards: Annotated[int, typer.Option(help="Shards of the collection.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of the vectors.")] = 1,
) -> None:
    """Measure latency and memory from 100,000 to 4,000,000 records."""
    sizes = [size for size in _SIZES if size[0] <= largest]
    costs = [cost(Dataset.generated(work, *size, seed), work / "growth", shards) for size in sizes]
    draw(costs, picture)
    head = (
        "| records | dimensions | tuned to 0.99 | recall@10 | ms in process | ms IndexFlatIP | faster | RssAnon, MB |"
    )
    title = f"The generator, seed {seed}; {shards} shards; {machine()}; {QUERIES // 2} captions."
    put(output, "growth", "\n".join([title, "", head, "|" + "---|" * 8, *(one.line() for one in costs)]))


if __name__ == "__main__":
    typer.run(main)
