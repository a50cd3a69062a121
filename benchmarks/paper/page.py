"""The paper's tables and ours as Markdown, side by side.

Owns their form. Reads what was measured, and measures nothing.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eyebright_cli.evaluate.metrics import Estimate

from benchmarks.paper import published
from benchmarks.paper.published import FLAT, IVF
from benchmarks.paper.results import Measured, Point, Seconds
from benchmarks.paper.task import TASK_DEPTHS
from benchmarks.paper.why import PROBES

_TASK = tuple(f"task@{k}" for k in TASK_DEPTHS)
_ANN = ("ANN@10 captions", "ANN@100 captions", "ANN@10 images")


def table_of_recall(measured: Sequence[Measured], exact: dict[str, Estimate], depth: int, paper: bool) -> Iterator[str]:
    """Table 1. ``depth``: the last rank that counts as found; ``paper``: the paper's own lines come first."""
    titles = [f"task recall@{k}" for k in TASK_DEPTHS]
    yield _line(
        "index", "setting", *titles, "of exact's @10", "MRR", "median rank", *(f"ANN recall {a[3:]}" for a in _ANN)
    )
    yield _rule(2 + len(titles) + 3 + len(_ANN))
    if paper:
        for name, recall in published.RECALL.items():
            cells = [_percent(recall[k]) if k in recall else "" for k in TASK_DEPTHS]
            kept = _percent(recall[10] / published.RECALL[FLAT][10])
            yield _line(f"*the paper: {name}*", "*1M photos, so400m*", *cells, kept, *[""] * (2 + len(_ANN)))
    yield _recall_line("comparing all, float32", "exact", exact, exact, depth)
    for one in measured:
        yield _recall_line(one.name, one.setting, one.recall, exact, depth)


def _recall_line(name: str, setting: str, recall: dict[str, Estimate], exact: dict[str, Estimate], depth: int) -> str:
    best = exact["task@10"].value
    kept = _percent(recall["task@10"].value / best) if best else ""
    figures = [_interval(recall[key]) for key in _TASK]
    ranks = f"{recall['MRR'].value:.3f}", _rank(recall["median rank"], depth)
    ann = [_interval(recall[key]) if key in recall else "" for key in _ANN]
    return _line(name, setting, *figures, kept, *ranks, *ann)


def table_of_seconds(
    dimension: int, measured: Sequence[Measured], reference: Measured, hits: Sequence[int], paper: bool
) -> Iterator[str]:
    """Table 2 or 3: medians and quartiles, each as a ratio to IndexFlatL2 of its own run."""
    shown = [k for k in hits if k in reference.seconds]
    yield _line("index", "setting", *(f"K = {k:,}" for k in shown), "built in")
    yield _rule(3 + len(shown))
    if paper:
        theirs = published.SECONDS[dimension]
        builds = published.BUILD_SECONDS[dimension]
        for name, seconds in theirs.items():
            of_k = dict(zip(published.HITS, zip(seconds, theirs[FLAT], strict=True), strict=True))
            cells = [f"{_duration(of_k[k][0])} = {_times(of_k[k][0] / of_k[k][1])}" for k in shown]
            yield _line(f"*the paper: {name}*", f"*{published.MACHINE}*", *cells, _built(builds.get(name)))
    for one in measured:
        cells = [_timed(one.seconds[k], reference.seconds[k]) if k in one.seconds else "" for k in shown]
        setting = f"{one.setting}; {one.note}" if one.note else one.setting
        yield _line(one.name, setting, *cells, _built(one.build_seconds))


def table_of_grid(grid: dict[str, Any]) -> Iterator[str]:
    """ANN recall@10 of captions and pictures for every number of cells and probes."""
    yield _line("ranked by", "cells", "asked by", *(f"nprobe {probes}" for probes in PROBES))
    yield _rule(3 + len(PROBES))
    for variant, of_cells in grid.items():
        for cells, kinds in of_cells.items():
            for kind, recalls in kinds.items():
                padded = [*recalls, *[math.nan] * (len(PROBES) - len(recalls))]
                yield _line(variant, cells, kind, *("" if math.isnan(own) else f"{own:.3f}" for own in padded))


def table_of_growth(sizes: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Latency and ANN recall@10 of each way at each size."""
    yield _line("pictures", *(f"{name}: ms, ANN recall@10" for name in sizes[0]["ways"]), "what the tuner took")
    yield _rule(2 + len(sizes[0]["ways"]))
    for size in sizes:
        ways = size["ways"].values()
        cells = [f"{1e3 * way['seconds']['median']:.2f}, {way['recall']['value']:.3f}" for way in ways]
        chosen = next(way["chosen"] for way in ways if "chosen" in way)
        yield _line(f"{size['rows']:,}", *cells, chosen)


def table_of_front(lines: Mapping[str, Sequence[Point]]) -> Iterator[str]:
    """Every point of the plot."""
    yield _line("index", "effort", "ANN recall@10, captions", "ANN recall@10, images", "ms")
    yield _rule(5)
    for name, points in lines.items():
        for point in points:
            images = "" if math.isnan(point.images) else f"{point.images:.3f}"
            yield _line(name, point.setting, f"{point.captions:.3f}", images, f"{1e3 * point.seconds:.2f}")


def table_of_traps(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What a mistake does to task recall."""
    yield _line("done wrong", "recall@1, right", "wrong", "recall@10, right", "wrong")
    yield _rule(5)
    for row in rows:
        (one, ten), (wrong_one, wrong_ten) = row["right"], row["wrong"]
        yield _line(row["what"], *(_percent(share) for share in (one, wrong_one, ten, wrong_ten)))


def verdict(exact: dict[str, Estimate], measured: Sequence[Measured]) -> Iterator[str]:
    """What each index keeps of exact recall, and in which part of IndexFlatL2's time, in a line each.

    A call over gRPC takes a millisecond, so that times say something of large sets alone.
    """
    flat = next((one for one in measured if one.name == FLAT), None)
    if flat is None:
        return
    recall, seconds = published.RECALL, published.SECONDS[1152]
    kept = f"{recall[IVF][10] / recall[FLAT][10]:.1%} of exact task recall@10"
    yield f"- *The paper's {IVF}: {kept}, at {seconds[FLAT][0] / seconds[IVF][0]:.0f} times IndexFlatL2's speed.*"
    for one in measured:
        if one.name != FLAT and 10 in one.seconds:
            ann = one.recall["ANN@10 captions"].value / flat.recall["ANN@10 captions"].value
            task = one.recall["task@10"].value / exact["task@10"].value
            times = flat.seconds[10].median / one.seconds[10].median
            yield (
                f"- {one.name} ({one.setting}): {ann:.1%} of IndexFlatL2's ANN recall@10 of captions, {task:.1%} of "
                f"exact task recall@10, at {times:.2g} times its speed."
            )


def _timed(seconds: Seconds, reference: Seconds) -> str:
    spread = f"{_duration(seconds.median)} ({_duration(seconds.lower)} to {_duration(seconds.upper)})"
    return f"{spread} = {_times(seconds.median / reference.median)}"


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1e3 * seconds:.2f} ms"
    return f"{1e3 * seconds:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def _built(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _times(ratio: float) -> str:
    return f"{ratio:.2g}x" if ratio < 10 else f"{ratio:.0f}x"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} % ({100 * estimate.lower:.1f}–{100 * estimate.upper:.1f})"


def _rank(estimate: Estimate, depth: int) -> str:
    shown = [
        f"{rank:,.0f}" if math.isfinite(rank) else f"past {depth:,}"
        for rank in (estimate.value, estimate.lower, estimate.upper)
    ]
    return shown[0] if len(set(shown)) == 1 else f"{shown[0]} ({shown[1]}–{shown[2]})"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(columns: int) -> str:
    return "|" + "---|" * columns
