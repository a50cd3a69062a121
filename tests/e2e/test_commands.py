"""index, search, like, delete and stats, against real services."""

import json
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from eyebright_cli.demo.gallery import Picture, gallery_tar, read_gallery
from eyebright_client import Client

from tests.e2e.commands import Answer, eyebright, eyebright_here, running
from tests.processes import RunningService
from tests.unit.cli.tars import write_tar

MANY = 8_000
"""Pictures whose indexing takes so long that Ctrl-C comes long before its end."""


@pytest.fixture(scope="module")
def gallery() -> dict[str, Picture]:
    with gallery_tar() as tar:
        return read_gallery(tar)


@pytest.fixture(scope="module")
def pictures(gallery: dict[str, Picture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 40 pictures in two folders, captions and metadata beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(list(gallery.values())[::41][:40]):
        place = folder / ("even" if number % 2 == 0 else "ungerade Zähler")
        place.mkdir(exist_ok=True)
        (place / f"{picture.key}.png").write_bytes(picture.png)
        (place / f"{picture.key}.txt").write_text(picture.label, "utf-8")
        (place / f"{picture.key}.json").write_text(json.dumps({"number": number}), "utf-8")
    return folder


class Connected:
    """The command with the addresses of the services in its environment."""

    def __init__(self, embedder: RunningService, index: RunningService) -> None:
        self.addresses = {"EYEBRIGHT_EMBEDDER": embedder.address, "EYEBRIGHT_INDEX": index.address}

    def __call__(self, *arguments: str) -> Answer:
        return eyebright_here(*arguments, environment=self.addresses)

    @property
    def options(self) -> tuple[str, ...]:
        return ("--embedder", self.addresses["EYEBRIGHT_EMBEDDER"], "--index", self.addresses["EYEBRIGHT_INDEX"])


@pytest.fixture(scope="module")
def cli(embedder: RunningService, index: RunningService) -> Connected:
    return Connected(embedder, index)


@pytest.fixture(scope="module")
def client(embedder: RunningService, index: RunningService) -> Iterator[Client]:
    with Client(embedder.address, index.address) as made:
        yield made


@pytest.fixture(scope="module")
def indexed(cli: Connected, pictures: Path) -> str:
    """Name of a collection that holds the folder."""
    answer = cli("index", str(pictures), "--collection", "folder", "--json")
    assert answer.code == 0, answer.err
    report = answer.json
    assert (report["collection"], report["indexed"], report["skipped"], report["failed"]) == ("folder", 40, 0, [])
    assert report["images_per_s"] > 0
    return "folder"


def test_indexing_again_skips_what_is_there_unless_told(cli: Connected, pictures: Path) -> None:
    command = ("index", f"{pictures}/even", "--collection", "again", "--json")
    for options, expected in (((), (20, 0)), ((), (0, 20)), (("--again",), (20, 0))):
        report = cli(*command, *options).json
        assert (report["indexed"], report["skipped"]) == expected


def test_search_by_words(cli: Connected, indexed: str) -> None:
    arguments = ("search", "a", "grinning", "face", "-k", "5", "--collection", indexed, "--json")
    answer = eyebright(*arguments, environment=cli.addresses)
    assert answer.code == 0, answer.err
    assert answer.err == ""
    found = answer.json
    assert found["query"] == {"text": "a grinning face"}
    assert len(found["hits"]) == 5
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= hit["probability"] <= 1 for hit in found["hits"])
    assert found["evidence"]["exact"] is True
    assert found["evidence"]["rows_scanned"] == 40
    assert found["stages"]["forward_seconds"] > 0
    assert found["stages"]["shard_search_seconds"] > 0


def test_search_by_picture_finds_the_picture_with_all_that_is_known_of_it(
    cli: Connected, indexed: str, pictures: Path
) -> None:
    path = next((pictures / "ungerade Zähler").glob("*.png"))
    found = cli("search", "--image", str(path), "-k", "1", "--collection", indexed, "--json").json
    (hit,) = found["hits"]
    assert hit["id"] == f"ungerade Zähler/{path.name}"
    assert hit["score"] > 0.999
    assert hit["probability"] is None
    assert hit["caption"] == path.with_suffix(".txt").read_text("utf-8")
    assert hit["metadata"] == json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert hit["source_uri"] == str(path)


def test_like_leaves_the_picture_itself_out(cli: Connected, indexed: str, pictures: Path) -> None:
    identifier = f"even/{next((pictures / 'even').glob('*.png')).name}"
    found = cli("like", identifier, "-k", "39", "--collection", indexed, "--json").json
    assert found["query"] == {"like": identifier}
    assert len(found["hits"]) == 39
    assert identifier not in {hit["id"] for hit in found["hits"]}


def test_the_table_for_people(cli: Connected, indexed: str) -> None:
    answer = cli("search", "a new grinning face", "-k", "3", "--collection", indexed)
    assert answer.code == 0
    for words in (
        "“a new grinning face”",
        "score",
        "probability",
        "id",
        "caption",
        "exact",
        "shards",
        "forward",
        "total",
    ):
        assert words in answer.out
    assert "\x1b" not in answer.out


def test_stats(cli: Connected, indexed: str) -> None:
    stats = cli("stats", "--collection", indexed, "--json").json
    assert stats["record_count"] == sum(shard["record_count"] for shard in stats["shards"]) == 40
    assert stats["collection"]["name"] == indexed
    assert "folder: 40 pictures" in cli("stats", "--collection", indexed).out


def test_where_leaves_out_what_does_not_match(cli: Connected, client: Client, pictures: Path) -> None:
    assert cli("index", str(pictures), "-c", "sorted").code == 0
    found = cli(
        "search", "a heart", "-k", "40", "-c", "sorted", "--where", "number>=30", "--where", "number!=33", "--json"
    )
    numbers = sorted(hit["metadata"]["number"] for hit in found.json["hits"])
    assert numbers == [30, 31, 32, *range(34, 40)]
    refused = cli("delete", "-c", "sorted", "--where", "number<30")
    assert (refused.code, client.count(collection="sorted")) == (1, 40), "nobody answered the question"
    assert "deleted 30 from sorted" in cli("delete", "-c", "sorted", "--where", "number<30", "--yes").out
    assert cli("delete", "-c", "sorted", "--where", "number<30", "--yes", "--json").json == {
        "collection": "sorted",
        "where": ["number<30"],
        "deleted": 0,
    }
    assert client.count(collection="sorted") == 10


def test_delete_forgets_and_is_no_fault_twice(
    cli: Connected, client: Client, gallery: dict[str, Picture], tmp_path: Path
) -> None:
    few = {f"{picture.key}.png": picture.png for picture in list(gallery.values())[:3]}
    write_tar(tmp_path / "few.tar", few)
    assert cli("index", str(tmp_path / "few.tar"), "-c", "few", "--shards", "1").code == 0
    victim = next(iter(gallery))
    assert "deleted 1 of 2 from few" in cli("delete", victim, "unknown", "-c", "few").out
    assert cli("delete", victim, "-c", "few", "--json").json["deleted"] == 0
    assert client.count(collection="few") == 2
    assert len(client.stats(collection="few").shards) == 1


def test_files_that_fail_are_listed_and_the_others_indexed(
    cli: Connected, client: Client, pictures: Path, tmp_path: Path
) -> None:
    good = next((pictures / "even").glob("*.png"))
    shutil.copy(good, tmp_path / "good.png")
    (tmp_path / "words.png").write_text("not a picture", "utf-8")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:200])
    shutil.copy(good, tmp_path / "list.png")
    (tmp_path / "list.json").write_text("[1]", "utf-8")

    answer = cli("index", str(tmp_path), "-c", "faulty", "--json")
    assert answer.code == 1
    assert answer.json["indexed"] == 1
    reasons = {failure["id"]: failure["reason"] for failure in answer.json["failed"]}
    assert reasons.keys() == {"words.png", "empty.jpg", "gone.png", "cut.png", "list.png"}
    assert all(reasons.values())
    assert "No such file" in reasons["gone.png"]
    assert "expected an object" in reasons["list.png"]
    assert [record.id for record in client.list(collection="faulty")] == ["good.png"]

    shown = cli("index", str(tmp_path), "-c", "faulty")
    assert shown.code == 1
    assert "5 failed:" in shown.out
    for identifier in reasons:
        assert f"  {identifier}: " in shown.out


def test_ctrl_c_keeps_what_was_acknowledged_and_the_same_command_goes_on(
    cli: Connected, client: Client, gallery: dict[str, Picture], tmp_path: Path
) -> None:
    few = [picture.png for picture in list(gallery.values())[:100]]
    members = {f"{number:05}.png": few[number % len(few)] for number in range(MANY)}
    tar = write_tar(tmp_path / "many.tar", members)
    client.create_collection("interrupted")
    with running("index", str(tar), "-c", "interrupted", *cli.options, folder=tmp_path) as command:
        command.wait_for(lambda: client.count(collection="interrupted") > 0)
        answer = command.signal(signal.SIGINT)
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert "pictures are in interrupted; the same command goes on from there" in answer.err
    count = client.count(collection="interrupted")
    assert 0 < count < MANY

    write_tar(tar, dict(list(members.items())[: count + 50]))
    resumed = cli("index", str(tar), "-c", "interrupted", "--json").json
    assert (resumed["skipped"], resumed["indexed"], resumed["failed"]) == (count, 50, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "/missing/folder"), "/missing/folder does not exist"),
        (("index", "{empty}"), "{empty} holds no picture"),
        (("index", "{empty}/*.png"), "{empty}/*.png matches nothing"),
        (("like", "unknown", "-c", "{collection}"), "unknown"),
        (("search", "words", "-c", "unknown"), "unknown"),
        (("stats", "-c", "unknown"), "unknown"),
        (("search", "words", "-c", "NOT A NAME"), "NOT A NAME"),
        (("search", "", "-c", "{collection}"), "0 bytes"),
        (("search", " ", "-c", "{collection}"), "white space"),
        (("search", "--image", "{words}", "-c", "{collection}"), "expected PNG"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], message: str, cli: Connected, indexed: str, tmp_path: Path
) -> None:
    words = tmp_path / "words.txt"
    words.write_text("not a picture", "utf-8")
    (tmp_path / "empty").mkdir()
    names = {"empty": str(tmp_path / "empty"), "collection": indexed, "words": str(words)}
    for form in ((), ("--json",)):
        answer = cli(*(argument.format(**names) for argument in arguments), *form)
        assert answer.code == 1
        assert answer.out == ""
        assert answer.err.startswith("eyebright: ")
        assert answer.err.count("\n") == 1
        assert message.format(**names) in answer.err


@pytest.mark.parametrize("arguments", [("search", "words"), ("stats",), ("index", "{pictures}")], ids=" ".join)
def test_nothing_listens(arguments: tuple[str, ...], pictures: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        free = f"127.0.0.1:{bound.getsockname()[1]}"
    words = [argument.format(pictures=pictures) for argument in arguments]
    answer = eyebright_here(*words, "--embedder", free, "--index", free)
    assert answer.code == 1
    assert answer.out == ""
    last = answer.err.splitlines()[-1]
    assert last.startswith("eyebright: ")
    assert "start it with `eyebright serve`" in last
    assert "Traceback" not in answer.err


def test_debug_shows_the_traceback() -> None:
    answer = eyebright("--debug", "index", "/missing/folder")
    assert answer.code == 1
    assert "Traceback" in answer.err
    assert "SourceError: /missing/folder does not exist" in answer.err
