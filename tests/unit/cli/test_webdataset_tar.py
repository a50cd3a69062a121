import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from eyebright_cli.webdataset_tar import count_samples, looks_like_tar, read_samples

from tests.unit.cli.tars import write_tar

MEMBERS = {
    "cat.png": b"cat",
    "cat.txt": b"a cat",
    "cat.json": b"{}",
    "birds/robin.JPG": b"robin",
    "words-only.txt": b"no picture",
    "v1.0/dog.webp": b"dog",
    "v1.0/dog.mask.png": b"mask",
    "._ghost.png": b"resource fork",
    "sub/.hidden.png": b"hidden",
    "two.png": b"first",
    "two.jpg": b"second",
}


def test_neighbours_with_one_key_are_a_sample(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", MEMBERS)
    samples = list(read_samples(tar))
    assert [(sample.key, sample.image_name, sample.image) for sample in samples] == [
        ("cat", "cat.png", b"cat"),
        ("birds/robin", "birds/robin.JPG", b"robin"),
        ("v1.0/dog", "v1.0/dog.webp", b"dog"),
        ("two", "two.png", b"first"),
    ]
    assert samples[0].annotations == {".txt": b"a cat", ".json": b"{}"}
    assert samples[1].annotations == {}


def test_count_agrees_with_reading(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", MEMBERS)
    assert count_samples(tar) == len(list(read_samples(tar))) == 4


def test_annotations_before_the_picture(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"cat.json": b"{}", "cat.txt": b"a cat", "cat.png": b"cat"})
    (sample,) = read_samples(tar)
    assert (sample.image, sample.annotations) == (b"cat", {".txt": b"a cat", ".json": b"{}"})


def test_dot_slash_is_no_part_of_a_key(tmp_path: Path) -> None:
    (sample,) = read_samples(write_tar(tmp_path / "a.tar", {"./a/cat.png": b"cat"}))
    assert sample.key == "a/cat"


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz")]
)
def test_compressed_tars_are_read_but_not_counted(tmp_path: Path, name: str, mode: str) -> None:
    tar = write_tar(tmp_path / name, MEMBERS, mode)
    assert looks_like_tar(tar)
    assert len(list(read_samples(tar))) == 4
    assert count_samples(tar) is None


def test_a_truncated_tar_gives_what_came_before(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.png": b"x" * 4000, "b.png": b"x" * 4000})
    tar.write_bytes(tar.read_bytes()[:7000])
    samples = read_samples(tar)
    assert next(samples).key == "a"
    with pytest.raises(tarfile.ReadError, match=r"b\.png ends after \d+ of 4000 bytes|unexpected end of data"):
        next(samples)


def test_samples_are_those_of_the_webdataset_library(tmp_path: Path) -> None:
    members = {name: content for name, content in MEMBERS.items() if not Path(name).name.startswith(".")}
    tar = write_tar(tmp_path / "a.tar", members)
    # In a process of its own, because the library imports torch.
    script = (
        "import json, sys, webdataset\n"
        "samples = webdataset.WebDataset(sys.argv[1], shardshuffle=False, empty_check=False)\n"
        "print(json.dumps({s['__key__']: sorted(k for k in s if not k.startswith('__')) for s in samples}))\n"
    )
    answer = subprocess.run([sys.executable, "-c", script, str(tar)], capture_output=True, text=True, check=True)
    theirs = {key: parts for key, parts in json.loads(answer.stdout).items() if set(parts) - {"txt", "json"}}
    ours = {sample.key: sample for sample in read_samples(tar)}
    assert list(ours) == list(theirs)
    for key, parts in theirs.items():
        assert {suffix.lstrip(".") for suffix in ours[key].annotations} == set(parts) & {"txt", "json"}
