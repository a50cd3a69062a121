import os
import sys
from pathlib import Path

import pytest
from eyebright_cli.errors import SourceError
from eyebright_cli.index_sources import ImageSource, open_source
from eyebright_client import ImageItem

from tests.unit.cli.tars import write_tar


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def read(source: ImageSource) -> list[ImageItem]:
    return list(source.items())


def ids(path: object) -> list[str]:
    return [item.id for item in read(open_source(str(path)))]


def test_a_folder_with_folders(tmp_path: Path) -> None:
    write(tmp_path, "b.png", "a.JPG", "birds/robin.webp", "birds/old/owl.gif", "notes.md", "movie.mp4", "scan.tiff")
    source = open_source(str(tmp_path))
    items = read(source)
    assert [item.id for item in items] == ["a.JPG", "b.png", "scan.tiff", "birds/robin.webp", "birds/old/owl.gif"]
    assert source.total == len(items)
    assert items[3].image == tmp_path / "birds/robin.webp"
    assert items[3].source_uri == str(tmp_path / "birds/robin.webp")
    assert not source.failures


def test_ids_do_not_depend_on_how_the_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "photos/a/b.png")
    monkeypatch.chdir(tmp_path)
    assert ids("photos") == ids("photos/") == ids("./photos") == ids(tmp_path / "photos") == ["a/b.png"]
    (item,) = read(open_source("photos"))
    assert item.source_uri == str(tmp_path / "photos/a/b.png")


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "a.png", ".b.png", "._a.png", ".git/c.png", "d/.e/f.png")
    assert ids(tmp_path) == ["a.png"]


def test_linked_folders_are_not_followed_and_linked_files_are(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a.png", "photos/b.png")
    (tmp_path / "photos/loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos/c.png").symlink_to(tmp_path / "elsewhere/a.png")
    assert ids(tmp_path / "photos") == ["b.png", "c.png"]


def test_siblings_become_caption_and_metadata(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("a red heart\n", "utf-8")
    (tmp_path / "a.json").write_text('{"year": 2024}', "utf-8")
    (tmp_path / "b.txt").write_text("\n", "utf-8")
    first, second, third = read(open_source(str(tmp_path)))
    assert (first.caption, first.metadata) == ("a red heart", {"year": 2024})
    assert (second.caption, second.metadata) == (None, None)
    assert (third.caption, third.metadata) == (None, None)


def test_bad_siblings_fail_their_picture_alone(tmp_path: Path) -> None:
    write(tmp_path, "bad-caption.png", "bad-metadata.png", "directory.png", "good.png")
    (tmp_path / "bad-caption.txt").write_bytes(b"B\xe4r")
    (tmp_path / "bad-metadata.json").write_text("[]", "utf-8")
    (tmp_path / "directory.txt").mkdir()
    source = open_source(str(tmp_path))
    assert [item.id for item in read(source)] == ["good.png"]
    reasons = {failure.id: failure.reason for failure in source.failures}
    assert "not UTF-8" in reasons["bad-caption.png"]
    assert "expected an object" in reasons["bad-metadata.png"]
    assert "Is a directory" in reasons["directory.png"]
    assert source.total == 4


def test_names_beyond_ascii(tmp_path: Path) -> None:
    write(tmp_path, "Bär & Söhne/日本 語.png", "emoji/❤️.png")
    assert ids(tmp_path) == ["Bär & Söhne/日本 語.png", "emoji/❤️.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_not_utf8_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xe4r.png")).write_bytes(b"b")
    source = open_source(str(tmp_path))
    assert [item.id for item in read(source)] == ["a.png"]
    (failure,) = source.failures
    assert failure.reason == "its name is not UTF-8"
    failure.id.encode("utf-8")


def test_what_is_no_regular_file_fails_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    write(tmp_path, "a.png")
    source = open_source(str(tmp_path))
    assert [item.id for item in read(source)] == ["a.png"]
    assert [(failure.id, failure.reason) for failure in source.failures] == [("pipe.png", "it is not a regular file")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_can_not_be_listed_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "closed/b.png")
    (tmp_path / "closed").chmod(0)
    source = open_source(str(tmp_path))
    assert [item.id for item in read(source)] == ["a.png"]
    (failure,) = source.failures
    assert "can't be listed" in failure.reason
    (tmp_path / "closed").chmod(0o700)


def test_one_file(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.png", "photos/b.png")
    assert ids(tmp_path / "photos/a.png") == ["a.png"]


def test_a_tar(tmp_path: Path) -> None:
    members = {
        "birds/robin.png": b"robin",
        "birds/robin.txt": b"a robin",
        "birds/robin.json": b'{"n": 1}',
        "cat.jpg": b"cat",
    }
    tar = write_tar(tmp_path / "a.tar", members)
    source = open_source(str(tar))
    assert source.total == 2
    assert read(source) == [
        ImageItem("birds/robin", b"robin", "a robin", {"n": 1}, f"{tar}#birds/robin.png"),
        ImageItem("cat", b"cat", None, None, f"{tar}#cat.jpg"),
    ]


def test_a_tar_with_a_bad_sample(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"a.png": b"a", "a.json": b"{", "b.png": b"b"})
    source = open_source(str(tar))
    assert [item.id for item in read(source)] == ["b"]
    assert [failure.id for failure in source.failures] == ["a"]


def test_a_damaged_tar_does_not_stop_the_next(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "2.tar", {"c.png": b"c"})
    cut = write_tar(tmp_path / "1.tar", {"a.png": b"a" * 600, "b.png": b"b" * 3000})
    cut.write_bytes(cut.read_bytes()[:3000])
    source = open_source(str(tmp_path / "*.tar"))
    assert [item.id for item in read(source)] == ["a", "c"]
    (failure,) = source.failures
    assert failure.id == str(cut)
    assert "can't be read further" in failure.reason
    assert whole.exists()


def test_what_only_looks_like_a_tar_does_not_stop_the_next(tmp_path: Path) -> None:
    write(tmp_path, "1.tar")
    write_tar(tmp_path / "2.tar", {"c.png": b"c"})
    source = open_source(str(tmp_path / "*.tar"))
    assert source.total is None
    assert [item.id for item in read(source)] == ["c"]
    assert [failure.id for failure in source.failures] == [str(tmp_path / "1.tar")]


def test_a_key_that_stands_in_two_tars_is_reported(tmp_path: Path) -> None:
    write_tar(tmp_path / "1.tar", {"a.png": b"first"})
    write_tar(tmp_path / "2.tar", {"a.png": b"second", "b.png": b"b"})
    source = open_source(str(tmp_path / "*.tar"))
    assert [(item.id, item.image) for item in read(source)] == [("a", b"first"), ("b", b"b")]
    (failure,) = source.failures
    assert failure.id == "a"
    assert failure.reason == f"its key stands twice, the second time in {tmp_path / '2.tar'}"


def test_a_glob_over_pictures(tmp_path: Path) -> None:
    write(tmp_path, "photos/a.png", "photos/b.jpg", "photos/c/d.jpg", "photos/a.txt", "photos/.e.jpg")
    assert ids(tmp_path / "photos/*") == ["a.png", "b.jpg"]
    assert ids(tmp_path / "photos/**/*.jpg") == ["b.jpg", "c/d.jpg"]
    assert ids(tmp_path / "*/c/*.jpg") == ["photos/c/d.jpg"]


def test_a_name_with_brackets_is_a_name_first(tmp_path: Path) -> None:
    write(tmp_path, "photos [2024]/a.png")
    assert ids(tmp_path / "photos [2024]") == ["a.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "does not exist"),
        ("empty", "holds no picture"),
        ("words.txt", "neither a folder, a picture"),
        ("no-*.png", "matches nothing"),
        ("words.*", "matches 1 names, none of them a picture or a tar"),
        ("fake.tar", "neither a folder, a picture"),
        ("no-pictures.tar", "holds no picture"),
        ("tars", r'to read its tars: eyebright index ".*/tars/\*\.tar\*"'),
    ],
)
def test_nothing_to_index(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "tars").mkdir()
    write(tmp_path, "words.txt", "fake.tar")
    write_tar(tmp_path / "no-pictures.tar", {"a.txt": b"a"})
    write_tar(tmp_path / "tars/1.tar", {"a.png": b"a"})
    with pytest.raises(SourceError, match=message):
        open_source(str(tmp_path / name))


def test_an_empty_path_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="not an empty PATH"):
        open_source("")
    assert ids(".") == ["a.png"]


def test_items_are_read_lazily(tmp_path: Path) -> None:
    write(tmp_path, "a.png", "b.png")
    items = open_source(str(tmp_path)).items()
    assert next(items).id == "a.png"
    (tmp_path / "b.txt").write_text("written later", "utf-8")
    assert next(items).caption == "written later"
