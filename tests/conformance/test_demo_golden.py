"""The demo checkpoint's golden vectors: nothing between a caption or a picture and its vector may move unnoticed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from eyebright_cli.doctor import golden as cli_golden

from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO_FOLDER, read_folder
from embedder_service.golden import FILE_NAME, Golden, cosine, read_golden
from embedder_service.images import ImageDecoder
from embedder_service.texts import TokenisedCaption
from tests.conformance.make_pictures import pictures

LARGEST_DIFFERENCE = 1e-9
"""Of a cosine to 1, in float32, whatever shares the pass and however many threads make it. On the machine that made the
vectors it was 1e-13 over batches of 1 to 64; other processors add up in another order."""

CLI_COPY = Path(__file__).parents[2] / "client/eyebright_cli/doctor/demo-golden.json"


@pytest.fixture(scope="module")
def golden() -> Golden:
    return read_golden(DEMO_FOLDER / FILE_NAME)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return load_checkpoint(read_folder(DEMO_FOLDER, "demo"), 32 * 1024)


@pytest.fixture(scope="module")
def pixels(golden: Golden, checkpoint: Checkpoint) -> np.ndarray:
    decoder = ImageDecoder(checkpoint.preprocessing, 1_000_000, 1_000_000)
    return np.stack([decoder.decode(picture.encoded, picture.name) for picture in golden.pictures])


def test_they_are_of_this_checkpoint(golden: Golden, checkpoint: Checkpoint) -> None:
    assert golden.fingerprint == checkpoint.fingerprint
    assert "fp32 on the CPU" in golden.made_by


def test_the_command_line_holds_the_same() -> None:
    assert CLI_COPY.read_bytes() == (DEMO_FOLDER / FILE_NAME).read_bytes()


@pytest.mark.parametrize("path", [CLI_COPY, DEMO_FOLDER / FILE_NAME], ids=["the command line's", "the checkpoint's"])
def test_the_command_line_reads_a_golden_file_as_the_embedder_does(path: Path) -> None:
    ours, theirs = read_golden(path), cli_golden.read_golden(path)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.captions == tuple(caption.text for caption in ours.captions)
    assert theirs.pictures == tuple((picture.name, picture.encoded) for picture in ours.pictures)
    np.testing.assert_array_equal(np.concatenate([theirs.caption_vectors, theirs.picture_vectors]), ours.vectors)


def test_the_embedder_reads_a_golden_file_that_the_command_line_wrote(tmp_path: Path, golden: Golden) -> None:
    path = tmp_path / "golden.json"
    cli_golden.write_golden(path, cli_golden.bundled_golden(), "a test")
    read = read_golden(path)
    assert (read.fingerprint, read.made_by) == (golden.fingerprint, "a test")
    assert [caption.text for caption in read.captions] == [caption.text for caption in golden.captions]
    assert [picture.encoded for picture in read.pictures] == [picture.encoded for picture in golden.pictures]
    np.testing.assert_array_equal(read.vectors, golden.vectors)


def test_token_ids(golden: Golden, checkpoint: Checkpoint) -> None:
    cut = []
    for caption in golden.captions:
        (tokenised,) = checkpoint.tokenizer.tokenise([caption.text], "texts")
        assert isinstance(tokenised, TokenisedCaption)
        assert tuple(tokenised.token_ids.tolist()) == caption.token_ids, caption.text
        if tokenised.truncated:
            cut.append(caption.text.split()[0])
    assert cut == ["an", "قطة", "Собака", "एक"]  # the bowl of soup fills the 20 tokens, and loses none


def test_pixels(golden: Golden, pixels: np.ndarray) -> None:
    digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in pixels]
    assert digests == [picture.pixels_sha256 for picture in golden.pictures]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("tower", list(Tower))
def test_vectors(
    golden: Golden, checkpoint: Checkpoint, pixels: np.ndarray, tower: Tower, batch_size: int, threads: int
) -> None:
    items = golden.captions if tower is Tower.TEXT else golden.pictures
    rows = pixels if tower is Tower.IMAGE else np.array([caption.token_ids for caption in golden.captions], np.int64)
    backend = TorchBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", threads)
    order = np.resize(np.arange(len(rows)), max(len(rows), batch_size))
    vectors = np.concatenate(
        [backend.forward(tower, rows[order[begin : begin + batch_size]]) for begin in range(0, len(order), batch_size)]
    )
    for place, vector in zip(order, vectors, strict=True):
        stored = items[place].vector
        assert stored is not None
        assert 1 - cosine(vector, stored) <= LARGEST_DIFFERENCE


def test_the_pictures_are_those_that_the_maker_makes(golden: Golden) -> None:
    made = pictures()
    for picture in golden.pictures:
        assert made[picture.name] == picture.encoded
    folder = CLI_COPY.parent / "pictures"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made
