"""Files of captions: every form, several captions a picture, and what is said of a bad one."""

import json
from pathlib import Path

import pyarrow
import pytest
from eyebright_cli.errors import CliError
from eyebright_cli.evaluate.queries import CaptionQuery, read_queries
from pyarrow import parquet

EXPECTED = [CaptionQuery("a.jpg", "a dog, running"), CaptionQuery("a.jpg", "ein Hund"), CaptionQuery("7", "a cat")]


def test_csv_with_a_mark_of_byte_order(tmp_path: Path) -> None:
    path = tmp_path / "captions.CSV"
    path.write_text('\ufeffid,caption,split\na.jpg,"a dog, running",test\na.jpg,ein Hund,test\n7,a cat,test\n', "utf-8")
    assert read_queries(path) == EXPECTED


def test_tsv(tmp_path: Path) -> None:
    path = tmp_path / "captions.tsv"
    path.write_text("filename\tsentence\na.jpg\ta dog, running\na.jpg\tein Hund\n7\ta cat\n", "utf-8")
    assert read_queries(path) == EXPECTED


def test_json_lines_with_a_list_of_captions_and_a_number_as_id(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    rows = [{"image_id": "a.jpg", "captions": ["a dog, running", "ein Hund"]}, {"image_id": 7, "captions": "a cat"}]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), "utf-8")
    assert read_queries(path) == EXPECTED


@pytest.mark.parametrize("lists", [False, True])
def test_parquet(tmp_path: Path, lists: bool) -> None:
    path = tmp_path / "captions.parquet"
    ids, captions = [own.id for own in EXPECTED], [own.caption for own in EXPECTED]
    columns = {"id": ids, "caption": [[own] for own in captions] if lists else captions, "more": [b"", b"", b""]}
    parquet.write_table(pyarrow.table(columns), path)
    assert read_queries(path) == EXPECTED


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("captions.txt", "", "expected a name that ends in .parquet"),
        ("captions.csv", "", "holds no caption"),
        ("captions.csv", "id,words\na,b\n", "expected a column called caption or .*, not only id, words"),
        ("captions.csv", "caption\nb\n", "expected a column called id or"),
        ("captions.csv", "id,caption\na,\n", "row 1: expected a caption, not ''"),
        ("captions.csv", "id,caption\n,b\n", "row 1: expected an id, not ''"),
        ("captions.csv", "id,caption\na\n", "row 1: expected a caption, not None"),
        ("captions.jsonl", "[1]", "row 1: expected an object, not a list"),
        ("captions.jsonl", "{", "can't be read"),
        ("captions.parquet", "no parquet at all", "can't be read"),
    ],
)
def test_bad_files_are_told_apart(tmp_path: Path, name: str, content: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(content, "utf-8")
    with pytest.raises(CliError, match=said):
        read_queries(path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_bytes(b"id,caption\n\xff\xfe,b\n")
    with pytest.raises(CliError, match="can't be read"):
        read_queries(path)
