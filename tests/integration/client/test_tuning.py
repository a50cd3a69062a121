"""Tuning through both clients, and ``eyebright tune``."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from eyebright_cli.app import app
from eyebright_client import (
    Client,
    Embeddings,
    FingerprintMismatch,
    InvalidArgument,
    NotFound,
    TuningProgress,
)
from PIL import Image
from typer.testing import CliRunner

from tests.cross_modal import pictures_and_captions
from tests.integration.client.conftest import MakeClient
from tests.integration.client.facade import Network
from tests.processes import RunningService, running_service

NAME = "tuned"
FINGERPRINT = "ab" * 32
DIMENSION = 32
PICTURES, CAPTIONS = pictures_and_captions(10_000, DIMENSION)
QUERIES, HELD_OUT = CAPTIONS[:300], CAPTIONS[300:500]
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "FORCE_COLOR": None})


@pytest.fixture(scope="module")
def tuned_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """An index service that takes small segments for large ones, with a collection of one shard."""
    folder: Path = tmp_path_factory.mktemp("tuning")
    arguments = ("--data-folder", str(folder / "data"), "--seal-rows", "2048", "--index-from-rows", "2000")
    with running_service("index_service", folder, *arguments) as service:
        with Client(None, service.address, collection=NAME) as client:
            client.create_collection(dimension=DIMENSION, fingerprint=FINGERPRINT, shard_count=1)
            client.upsert([f"{row:05d}" for row in range(len(PICTURES))], PICTURES)
            client.create_collection("empty", dimension=DIMENSION, fingerprint=FINGERPRINT)
        yield service


@pytest.fixture
def tuner(make_client: MakeClient, tuned_index: RunningService) -> Client:
    return make_client(None, tuned_index.address, collection=NAME)


def live_recall(client: Client) -> float:
    quick, exact = (
        client.search_many(vectors=HELD_OUT, modality="text", k=10, include=(), exact=exact) for exact in (False, True)
    )
    return sum(len(set(one.ids) & set(other.ids)) for one, other in zip(quick, exact, strict=True)) / len(HELD_OUT) / 10


def test_a_collection_is_tuned_and_tells_it_later(tuner: Client) -> None:
    told: list[TuningProgress] = []
    found = tuner.optimize(target_recall=0.9, k=10, queries=QUERIES, recipes=["fastscan", "hnsw"], progress=told.append)
    assert (found.basis, found.target_met, found.target_recall, found.k) == ("measured", True, 0.9, 10)
    assert {(point.recipe, point.centred) for point in found.front} == {
        ("exact", False),
        ("fastscan", False),
        ("fastscan", True),
        ("hnsw", False),
    }
    assert found.chosen in found.front
    assert found.chosen.least_recall is not None
    assert found.chosen.least_recall >= 0.9
    [recall] = found.chosen.recall
    assert recall.modality == "text"
    assert abs(found.time.timestamp() - time.time()) < 600
    assert told[-1].phase == "done"
    assert live_recall(tuner) >= 0.9
    status = tuner.tuning()
    assert (status.last, status.under_way) == (found, None)


def test_queries_may_say_what_they_are(tuner: Client) -> None:
    as_pictures = tuner.optimize(target_recall=0.5, queries={"image": PICTURES[:200], "text": QUERIES}, recipes=["lsh"])
    assert {recall.modality for recall in as_pictures.chosen.recall} == {"image", "text"}
    embedded = Embeddings(QUERIES, FINGERPRINT, "image")
    assert [recall.modality for recall in tuner.optimize(target_recall=0.5, queries=embedded).chosen.recall] == [
        "image"
    ]
    limited = tuner.optimize(target_recall=0.5, queries=QUERIES, recipes=["lsh"], memory_limit_bytes=100)
    assert (limited.chosen.recipe, limited.chosen.index_bytes, limited.memory_limit_bytes) == ("exact", 0, 100)


def test_what_is_refused_is_raised(tuner: Client) -> None:
    with pytest.raises(InvalidArgument, match="at least 200 queries of TEXT, not 10"):
        tuner.optimize(queries=QUERIES[:10])
    with pytest.raises(InvalidArgument, match="recipes: expected any of"):
        tuner.optimize(recipes=["fast"])  # type: ignore[list-item]
    with pytest.raises(InvalidArgument, match='queries: expected "text" or "image"'):
        tuner.optimize(queries={"record": QUERIES})
    with pytest.raises(InvalidArgument, match="target_recall: expected above 0"):
        tuner.optimize(target_recall=-1.0)
    with pytest.raises(FingerprintMismatch):
        tuner.optimize(queries=Embeddings(QUERIES, "cd" * 32, "text"))
    with pytest.raises(NotFound, match="'nobody'"):
        tuner.tuning(collection="nobody")


def test_an_exception_in_progress_ends_the_work(tuner: Client) -> None:
    before = tuner.tuning().last

    def give_up(progress: TuningProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuner.optimize(target_recall=0.77, queries=QUERIES, progress=give_up)
    deadline = time.monotonic() + 30
    while tuner.tuning().under_way is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert tuner.tuning().last == before


def test_a_lost_connection_is_made_again_and_the_work_with_it(
    make_client: MakeClient, tuned_index: RunningService
) -> None:
    network = Network(tuned_index.address)
    cuts: list[TuningProgress] = []

    def cut_once(progress: TuningProgress) -> None:
        if not cuts:
            cuts.append(progress)
            network.cut()

    try:
        found = make_client(None, network.address, collection=NAME).optimize(
            target_recall=0.5, queries=QUERIES, recipes=["hnsw"], progress=cut_once
        )
    finally:
        network.close()
    assert cuts
    assert found.target_met


@pytest.fixture
def command(tuned_index: RunningService, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs ``eyebright tune`` with queries of its own; exit code, standard output and error."""
    np.save(tmp_path / "captions.npy", QUERIES)

    def run(*arguments: str) -> tuple[int, str, str]:
        asked = () if "--show" in arguments else ("--queries", str(tmp_path / "captions.npy"))
        result = runner.invoke(app, ["tune", "--index", tuned_index.address, *asked, *arguments])
        return result.exit_code, result.stdout, f"{result.stderr}{result.exception or ''}"

    return run


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_command_prints_a_table_and_draws(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, suffix: str
) -> None:
    plot = tmp_path / f"front.{suffix}"
    options = ("--target-recall", "0.9", "--recipe", "fastscan", "--recipe", "hnsw", "--plot", str(plot))
    code, out, _ = command(NAME, *options)
    assert code == 0, out
    assert re.search(r"→ +(fastscan|hnsw|exact)", out), out
    assert re.search(rf"^{NAME}: .* reaches recall@10 0\.9$", out, re.MULTILINE), out
    if suffix == "png":
        with Image.open(plot) as picture:
            assert picture.size == (1200, 750)
            assert len(picture.convert("RGB").getcolors(1 << 20) or ()) > 10
    else:
        assert ElementTree.parse(plot).getroot().tag.endswith("svg")
    plot.unlink()
    code, shown, _ = command(NAME, "--show", "--json", "--plot", str(plot))
    assert code == 0
    described = json.loads(shown)
    assert (described["basis"], described["collection"], described["target_recall"]) == ("measured", NAME, 0.9)
    assert {point["recipe"] for point in described["front"]} == {"exact", "fastscan", "hnsw"}
    assert plot.stat().st_size > 5_000


def test_the_command_refuses_in_a_line(command: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "words.npy").write_text("a dog")
    for arguments, message in (
        (("empty", "--show"), "empty was never tuned"),
        ((NAME, "--plot", "front.doc"), "front.doc: expected a name that ends in .png"),
        ((NAME, "--plot", f"{tmp_path}/nowhere/front.png"), "there is no folder"),
        ((NAME, "--queries", f"{tmp_path}/words.npy"), "is no NumPy file with vectors"),
    ):
        code, _, err = command(*arguments)
        assert code == 1
        assert message in err


def test_without_measurements_there_is_nothing_to_draw(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = command("empty", "--plot", f"{tmp_path}/front.png")
    assert code == 1
    assert "searched exactly; there is nothing to tune" in out
    assert "nothing was measured" in err


def test_without_matplotlib_the_pip_line_is_named(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, _, err = command(NAME, "--plot", f"{tmp_path}/front.png")
    assert code == 1
    assert 'pip install "eyebright[plot]"' in err


def test_an_index_is_chosen_and_a_search_aims_at_a_recall(client: Client) -> None:
    vectors = np.random.default_rng(3).standard_normal((50, 8)).astype(np.float32)
    client.create_collection(dimension=8, fingerprint="ab" * 32)
    client.upsert([f"{number:02}" for number in range(50)], vectors)
    assert client.set_index("ivf-fastscan", centred=True).dimension == 8
    best = client.search(vector=vectors[3], k=5, exact=True)
    for target in (0.5, 1.0):
        found = client.search(vector=vectors[3], k=5, target_recall=target)
        assert found.ids == best.ids
        assert found.evidence is not None
        assert found.evidence.exact, "few records are compared one by one"
    assert client.search_many(vectors=vectors[:2], k=5, target_recall=0.9)[1].ids[0] == "01"
    for target in (0.0, -1.0, 1.5):
        with pytest.raises(InvalidArgument, match="target_recall: expected above 0 and at most 1"):
            client.search(vector=vectors[3], target_recall=target)
    with pytest.raises(InvalidArgument, match=r"recipe: expected one of auto, .*not 'ivf'"):
        client.set_index("ivf")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="centred"):
        client.set_index("hnsw", centred=True)
    assert client.set_index().name == client.get_collection().name
