"""``eyebright evaluate`` on a real index, with an embedder that needs no torch, and recall that is known beforehand."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import Client

from tests.e2e.commands import Answer, eyebright_here
from tests.integration.cli.toy_embedder import DIMENSION, FINGERPRINT, toy_embedder
from tests.processes import RunningService

PICTURES = 60
COLLECTION = "evaluated"


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions a picture; those of the last ten say what another picture's say."""
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    rows = [{"id": f"picture-{own}", "caption": [f"{own} things", f"{own} of them"]} for own in range(PICTURES)]
    for row, other in zip(rows[-10:], rows[:10], strict=True):
        row["caption"] = other["caption"]
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def addresses(index: RunningService) -> Iterator[dict[str, str]]:
    """A collection whose pictures lie half-way between their two captions."""
    with toy_embedder() as embedder, Client(embedder, index.address, collection=COLLECTION) as client:
        client.create_collection(dimension=DIMENSION, fingerprint=FINGERPRINT)
        first, second = (
            client.embed_texts([pattern.format(own) for own in range(PICTURES)]).vectors
            for pattern in ("{} things", "{} of them")
        )
        middle = first + second
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        client.upsert([f"picture-{own}" for own in range(PICTURES)], middle, fingerprint=FINGERPRINT)
        yield {"EYEBRIGHT_EMBEDDER": embedder, "EYEBRIGHT_INDEX": index.address}
        client.delete_collection()


def evaluate(addresses: dict[str, str], *arguments: str) -> Answer:
    return eyebright_here("evaluate", "--collection", COLLECTION, *arguments, environment=addresses)


def test_figures_are_those_that_a_sort_gives(addresses: dict[str, str], captions: Path, tmp_path: Path) -> None:
    picture, page = tmp_path / "recall.png", tmp_path / "recall.md"
    files = ("--plot", str(picture), "--markdown", str(page))
    answer = evaluate(addresses, "--queries", str(captions), "--image-to-text", "--json", *files)
    assert answer.code == 0, answer.err
    found = answer.json
    rows = [json.loads(line) for line in captions.read_text("utf-8").splitlines()]
    with Client(addresses["EYEBRIGHT_EMBEDDER"], addresses["EYEBRIGHT_INDEX"], collection=COLLECTION) as client:
        texts = client.embed_texts([caption for row in rows for caption in row["caption"]]).vectors
        records = [client.get(row["id"], include=["vector"]) for row in rows]
    scores = texts @ np.array([record.vector for record in records]).T
    own = np.repeat(np.arange(PICTURES), 2)
    ranks = 1 + (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)
    exact, served = found["ways"]
    assert (exact["name"], served["name"]) == ("exact", "as served")
    for k in ("1", "5", "10", "50"):
        assert exact["task"][k]["value"] == pytest.approx((ranks <= int(k)).mean())
        assert exact["task"][k]["lower"] <= exact["task"][k]["value"] <= exact["task"][k]["upper"]
    assert 0.5 < exact["task"]["1"]["value"] <= 50 / 60
    assert exact["mrr"]["value"] == pytest.approx((1 / ranks).mean())
    assert exact["median_rank"]["value"] == np.sort(ranks)[(len(ranks) - 1) // 2]
    # So few records are compared one by one however they are searched.
    assert served["ann"] == {k: {"value": 1, "lower": 1, "upper": 1} for k in ("10", "100")}
    assert served["ann_images"]["value"] == 1
    backwards = 1 + np.array(
        [
            (np.delete(scores[:, at], [2 * at, 2 * at + 1]) >= scores[2 * at : 2 * at + 2, at].max() - 1e-5).sum()
            for at in range(PICTURES)
        ]
    )
    for k in ("1", "10"):
        assert found["image_to_text"][k]["value"] == pytest.approx((backwards <= int(k)).mean())
    assert (found["captions"], found["pictures"], found["records"], found["depth"]) == (120, 60, 60, 60)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "120 captions of 60 pictures among 60" in page.read_text("utf-8")


def test_the_table_and_the_same_sample_every_time(addresses: dict[str, str], captions: Path) -> None:
    arguments = ("--queries", str(captions), "--sample", "30", "--images", "5", "--target-recall", "0.9")
    first, second = (evaluate(addresses, *arguments) for _ in range(2))
    assert first.code == 0, first.err
    assert "30 captions of" in first.out
    assert "target_recall 0.9" in first.out
    assert "bootstrap" in first.out
    counted = [line for line in first.out.splitlines() if line.startswith((" task", " MRR", " median", " ANN"))]
    assert len(counted) == 10
    assert set(counted) <= set(second.out.splitlines())


def test_ids_that_are_not_there(addresses: dict[str, str], captions: Path, tmp_path: Path) -> None:
    path = tmp_path / "more.jsonl"
    more = '{"id": "elsewhere", "caption": "a stranger"}'
    path.write_text(captions.read_text("utf-8") + "\n" + more, "utf-8")
    answer = evaluate(addresses, "--queries", str(path))
    assert answer.code == 1
    assert "1 ids of the captions are not in evaluated, such as elsewhere" in answer.err
    answer = evaluate(addresses, "--queries", str(path), "--skip-missing", "--json")
    assert (answer.code, answer.json["captions"]) == (0, 120)
    path.write_text(more, "utf-8")
    answer = evaluate(addresses, "--queries", str(path), "--skip-missing")
    assert answer.code == 1
    assert "no other is left" in answer.err


def test_a_collection_that_is_not_there(addresses: dict[str, str], captions: Path) -> None:
    answer = eyebright_here("evaluate", "-c", "nowhere", "--queries", str(captions), environment=addresses)
    assert answer.code == 1
    assert "nowhere" in answer.err
