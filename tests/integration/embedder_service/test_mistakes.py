"""``python -m embedder_service check --recall``: what mistakes cost on given pairs, and which one vectors show."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from eyebright_cli.demo.gallery import gallery_tar, read_gallery

from embedder_service.checkpoint_files import DEMO, find_checkpoint
from embedder_service.command import main
from embedder_service.mistakes import RIGHT, Made, of_captions, of_pictures, verdict
from embedder_service.pairs import PairsError, read_pairs
from embedder_service.reference_towers import ReferenceTowers

PAIRS = 48


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    with gallery_tar() as tar:
        pictures = list(read_gallery(tar).values())[:: 1644 // PAIRS][:PAIRS]
    rows = []
    for picture in pictures:
        (folder / f"{picture.key}.png").write_bytes(picture.png)
        rows.append({"caption": picture.label, "image": f"{picture.key}.png"})
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def towers() -> ReferenceTowers:
    return ReferenceTowers(find_checkpoint(DEMO))


@pytest.fixture(scope="module")
def captions(towers: ReferenceTowers, pairs: Path) -> list[Made]:
    return list(of_captions(towers, towers.token_ids(read_pairs(pairs, PAIRS).captions)))


@pytest.fixture(scope="module")
def images(towers: ReferenceTowers, pairs: Path) -> list[Made]:
    return list(of_pictures(towers, towers.decoded(read_pairs(pairs, PAIRS).pictures)))


def test_every_mistake_costs_something_and_is_told_from_the_others(captions: list[Made], images: list[Made]) -> None:
    for ways in (captions, images):
        for made in ways:
            unit = made.vectors / np.linalg.norm(made.vectors, axis=1, keepdims=True)
            well, said = verdict(unit, ways)
            assert well == (made.how == RIGHT), said
            assert made.how == RIGHT or f"looks like: {made.how} (cosine 1.0000)" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda right: np.roll(right, -3, axis=0), "out of step: row 3 rows on is the one that fits"),
        (lambda right: 5 * right, "not 1"),
        (lambda right: right[:, :-1], "another checkpoint"),
        (lambda right: 0 * right, "zeros"),
        (lambda right: np.random.default_rng(1).normal(size=right.shape), "like none of these mistakes"),
    ],
)
def test_what_else_is_wrong(captions: list[Made], change: Callable[[np.ndarray], np.ndarray], said: str) -> None:
    right = captions[0].vectors / np.linalg.norm(captions[0].vectors, axis=1, keepdims=True)
    well, found = verdict(change(right), captions)
    assert not well
    assert said in found


def test_the_command(pairs: Path, captions: list[Made], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--recall", str(pairs)]) == 0
    lines = {line[8:56].strip(): line[56:] for line in capsys.readouterr().out.splitlines()[1:]}
    right = float(lines[RIGHT].split()[1].rstrip("%"))
    assert right > 50
    assert float(lines["values divided by 255 twice"].split()[1].rstrip("%")) < right / 4
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()]
    padded = next(made for made in captions if made.how == "captions padded to the longest of 8").vectors
    for row, vector in zip(rows, padded / np.linalg.norm(padded, axis=1, keepdims=True), strict=True):
        row["text_vector"] = vector.tolist()
    told = pairs.with_name("with-vectors.jsonl")
    told.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    assert main(["check", "--recall", str(told)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("FAILED  text_vector: median cosine to ours 0.")
    assert "looks like: captions padded to the longest of 8" in last


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs.csv", "", "ends in .parquet or .jsonl"),
        ("pairs.jsonl", "", "at least 2 pairs, not 0"),
        ("pairs.jsonl", "{", "can't be read"),
        ("pairs.jsonl", '{"caption": ""}\n{"caption": ""}', "a column caption with words, not ''"),
        ("pairs.jsonl", '{"caption": "a"}\n{"caption": "b"}', "a column image with a path"),
        ("pairs.parquet", "none", "can't be read"),
    ],
)
def test_bad_files_are_refused(
    tmp_path: Path, name: str, content: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(PairsError, match=said):
        read_pairs(path, 10)
    assert main(["check", "--recall", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_vectors_must_be_as_long_and_finite(tmp_path: Path, pairs: Path) -> None:
    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()[:2]]
    for row in rows:
        row["image"] = str(pairs.parent / row["image"])
    for vectors, said in (([[1.0], [1.0, 2.0]], "as many numbers"), ([[1.0], [float("nan")]], "finite numbers")):
        for row, vector in zip(rows, vectors, strict=True):
            row["image_vector"] = vector
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
        with pytest.raises(PairsError, match=said):
            read_pairs(path, 10)


def test_parquet_with_the_bytes_of_pictures(tmp_path: Path, pairs: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [json.loads(line) for line in pairs.read_text("utf-8").splitlines()[:3]]
    pictures = [{"bytes": (pairs.parent / row["image"]).read_bytes(), "path": None} for row in rows]
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pyarrow.table({"caption": [row["caption"] for row in rows], "image": pictures}), path)
    read = read_pairs(path, 2)
    assert read.captions == [rows[0]["caption"], rows[2]["caption"]]
    assert read.pictures == [pictures[0]["bytes"], pictures[2]["bytes"]]
    assert read.text_vectors is None
