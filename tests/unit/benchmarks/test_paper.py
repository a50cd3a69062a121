"""What ``make bench-paper`` counts and writes, on sets small enough to count in another way."""

import math
from pathlib import Path

import numpy as np
import pytest
from eyebright_cli.evaluate.metrics import Estimate

from benchmarks.dataset import Dataset
from benchmarks.paper import brute_force, hosted, indexes, page
from benchmarks.paper.published import FLAT, IVF
from benchmarks.paper.results import Measured, Point, Results, Seconds
from benchmarks.paper.task import Kind, Task, exact_recall
from benchmarks.paper.vagueness import blur, scale_for

ROWS, CAPTIONS, DIMENSION = 700, 90, 128


@pytest.fixture
def task(tmp_path: Path) -> Task:
    data = Dataset.generated(tmp_path, ROWS, DIMENSION, seed=3, queries=CAPTIONS)
    return Task(data, data.set_aside(40), captions=CAPTIONS)


def ranks_by_sorting(task: Task) -> list[int]:
    """Where each caption's picture stands, counted the slow way."""
    pictures = np.asarray(task.data.pictures).astype(np.float64)
    pictures /= np.linalg.norm(pictures, axis=1, keepdims=True)
    return [
        1 + sorted(range(len(pictures)), key=lambda row: -float(pictures[row] @ caption)).index(own)
        for caption, own in zip(task.captions.astype(np.float64), task.own.tolist(), strict=True)
    ]


def test_ranks_are_those_of_sorting_everything(task: Task) -> None:
    blur(task, 4.0)  # so that they are not all 1
    expected = ranks_by_sorting(task)
    assert max(expected) > 100
    assert task.exact_ranks().tolist() == expected
    recall = exact_recall(task)
    for k in (1, 5, 10, 50, 100):
        assert recall[f"task@{k}"].value == pytest.approx(sum(rank <= k for rank in expected) / len(expected))
    assert recall["MRR"].value == pytest.approx(sum(1 / rank for rank in expected) / len(expected))


def test_an_index_that_finds_all_is_judged_as_exact(task: Task) -> None:
    blur(task, 4.0)
    judged = task.judge(lambda queries, k, _: task.nearest(queries, k), prefixes=True)
    assert judged == exact_recall(task) | {key: judged[key] for key in judged if key.startswith("ANN")}
    assert [judged[f"ANN@{of}"].value for of in ("10 captions", "100 captions", "10 images")] == [1.0, 1.0, 1.0]


def test_a_hit_that_an_index_loses_costs_what_it_is_worth(task: Task) -> None:
    blur(task, 4.0)
    expected = ranks_by_sorting(task)

    def without_the_best(queries: np.ndarray, k: int, _: Kind) -> np.ndarray:
        return task.nearest(queries, k + 1)[:, 1:]

    judged = task.judge(without_the_best, prefixes=False)
    assert judged["ANN@10 captions"].value == pytest.approx(0.9)
    assert judged["ANN@100 captions"].value == pytest.approx(0.99)
    assert judged["task@10"].value == pytest.approx(sum(2 <= rank <= 11 for rank in expected) / len(expected))


def test_who_tunes_does_not_judge(task: Task) -> None:
    total = len(task.tuning_captions) + len(task.captions)
    assert total > 0.9 * CAPTIONS  # some are of the pictures that were set aside
    assert len(task.tuning_captions) == -(-total // 3)
    assert not (task.tuning_captions[:, None] == task.captions[None]).all(axis=2).any()
    assert task.images is not None
    assert task.tuning_images is not None
    assert not (task.tuning_images[:, None] == task.images[None]).all(axis=2).any()
    assert task.own.max() < task.data.rows == ROWS - 40


def test_captions_become_as_vague_as_was_asked(tmp_path: Path) -> None:
    task = Task(Dataset.generated(tmp_path, 3_000, DIMENSION, seed=3, queries=600), captions=600)
    sharp = exact_recall(task)["task@10"].value
    scale = scale_for(task, 0.15)
    with pytest.raises(ValueError, match=r"0\.9 is not between"):
        scale_for(task, 0.9)
    blur(task, scale)
    assert sharp > 0.9
    assert exact_recall(task)["task@10"].value == pytest.approx(0.15, abs=0.04)


@pytest.mark.parametrize("kind", indexes.PAPER_INDEXES, ids=lambda kind: kind.name)
def test_the_papers_indexes(task: Task, kind: indexes.PaperIndex) -> None:
    measured = indexes.measure(kind, task, (10, 100, 10_000))
    assert list(measured.seconds) == [10, 100]  # no more hits than pictures
    assert [point.usual for point in measured.points] == [True] + [False] * (len(measured.points) - 1)
    if kind.name == FLAT:
        assert measured.recall["ANN@100 captions"].value == 1.0
    if kind.name == IVF:
        assert measured.recall["ANN@10 captions"].value < 0.8
        assert measured.points[0].captions < measured.points[-1].captions
    index, _ = indexes.build(kind, task.vectors)
    if kind.prefixes:  # else hits would have to be asked for again at each depth
        assert (index.search(task.captions, 100)[1][:, :10] == index.search(task.captions, 10)[1]).all()


def test_without_an_index(task: Task) -> None:
    for measured in (brute_force.in_python(task, (10, 1_000)), brute_force.in_numpy(task, (10, 1_000))):
        assert list(measured.seconds) == [10]
        assert 0 < measured.seconds[10].lower <= measured.seconds[10].median <= measured.seconds[10].upper


def measured_as(name: str, recall: float, seconds: float) -> Measured:
    estimate = Estimate(recall, recall, recall)
    keys = ("task@1", "task@5", "task@10", "task@50", "task@100", "MRR", "ANN@10 captions")
    ranks = {"median rank": Estimate(7.0, 2.0, math.inf)}
    timed = {10: Seconds(seconds, seconds / 2, 2 * seconds, 5)}
    return Measured(name, "a setting", 1.5, dict.fromkeys(keys, estimate) | ranks, timed, [Point("x", 1, 1, seconds)])


def test_results_are_kept_until_they_are_forgotten(tmp_path: Path) -> None:
    one = measured_as(IVF, 0.5, 0.01)
    Results(tmp_path).keep("768-x", one)
    (tmp_path / "768-y.new").write_text('{"half": ', "utf-8")  # as a run leaves it that was stopped meanwhile
    again = Results(tmp_path)
    assert again.get("768-x") == one
    assert not again.has("768-y")
    assert again.get("768-y") is None
    again.forget("768-x")
    assert not again.has("768-x")


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for way in hosted.WAYS:
        results.keep(f"768-{way.key}", measured_as(way.key, 0.5, 0.01))

    def unwanted() -> Task:
        raise AssertionError("the dataset was made for nothing")

    hosted.measure_missing(unwanted, results, "768", tmp_path, hosted.WAYS, (10,), unwanted)


def test_tables_say_what_was_measured() -> None:
    flat, cells = measured_as(FLAT, 0.8, 0.4), measured_as(IVF, 0.2, 0.02)
    of_cells = list(page.verdict(flat.recall, [flat, cells]))[-1]
    assert "25.0% of IndexFlatL2's ANN recall@10 of captions, 25.0% of exact task recall@10, at 20 times" in of_cells
    *_, last = page.table_of_recall([flat, cells], flat.recall, 100, paper=True)
    cells_of_last = [cell.strip() for cell in last.strip("|").split("|")]
    assert cells_of_last[:3] == [IVF, "a setting", "20.0 % (20.0–20.0)"]
    assert "25.0 %" in cells_of_last
    assert "7 (2–past 100)" in cells_of_last
    *_, last = page.table_of_seconds(768, [flat, cells], flat, (10, 100), paper=True)
    assert "20.00 ms (10.00 ms to 40.00 ms) = 0.05x" in last
    assert last.rstrip("| ").endswith("1.5 s")
