"""Loading a checkpoint, and that its vectors are transformers' own."""

import io
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import CheckpointError, read_folder
from embedder_service.images import ImageDecoder
from embedder_service.texts import TokenisedCaption
from tests.unit.embedder_service.checkpoints import CAPTIONS, Reference, write_checkpoint
from tests.unit.embedder_service.pictures import encoded, photo

MAX_TEXT_BYTES = 32 * 1024

PICTURES: dict[str, tuple[Image.Image, str]] = {
    "large PNG": (photo(900, 700, 1), "PNG"),
    "tall JPEG": (photo(200, 640, 2), "JPEG"),
    "gray PNG": (photo(300, 200, 3, "L"), "PNG"),
    "small PNG": (photo(5, 3, 4), "PNG"),
    "one pixel": (photo(1, 1, 5), "PNG"),
    "square JPEG": (photo(64, 64, 6), "JPEG"),
    "palette GIF": (photo(120, 80, 7), "GIF"),
    "transparent PNG": (photo(80, 120, 8, "RGBA"), "PNG"),
}


def decoded_pictures(checkpoint: Checkpoint) -> tuple[np.ndarray, list[Image.Image]]:
    """What we make of the files, and the same files as Pillow opens them for transformers."""
    decoder = ImageDecoder(checkpoint.preprocessing, 10**8, 10**8)
    rows, opened = [], []
    for image, form in PICTURES.values():
        if image.mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        file = encoded(image, form)
        rows.append(decoder.decode(file, "images[0]"))
        with Image.open(io.BytesIO(file)) as reopened:
            reopened.load()
            opened.append(reopened.copy())
    return np.stack(rows), opened


def token_ids(checkpoint: Checkpoint, captions: list[str]) -> np.ndarray:
    rows = [c.token_ids for c in checkpoint.tokenizer.tokenise(captions, "texts") if isinstance(c, TokenisedCaption)]
    assert len(rows) == len(captions)
    return np.stack(rows)


def test_preprocessing_equals_transformers(checkpoint: Checkpoint, backend: TorchBackend, reference: Reference) -> None:
    import torch

    rows, opened = decoded_pictures(checkpoint)
    ours = backend.pixel_values(torch.from_numpy(rows)).numpy()
    theirs = np.concatenate([reference.pixel_values([image]) for image in opened])
    assert np.abs(ours - theirs).max() <= 2.5e-7


def test_image_vectors_equal_transformers(checkpoint: Checkpoint, backend: TorchBackend, reference: Reference) -> None:
    rows, opened = decoded_pictures(checkpoint)
    ours = backend.forward(Tower.IMAGE, rows)
    theirs = np.concatenate([reference.image_vectors([image]) for image in opened])
    assert ours.dtype == np.float32
    assert 1 - (ours * theirs).sum(1).min() <= 1e-6
    assert np.ptp(ours @ ours.T) > 0.01


def test_text_vectors_equal_transformers(checkpoint: Checkpoint, backend: TorchBackend, reference: Reference) -> None:
    ours = backend.forward(Tower.TEXT, token_ids(checkpoint, list(CAPTIONS)))
    theirs = np.concatenate([reference.text_vectors([caption]) for caption in CAPTIONS])
    assert 1 - (ours * theirs).sum(1).min() <= 1e-6
    assert np.ptp(ours @ ours.T) > 0.01


@pytest.mark.parametrize("size", [2, 3, 8, 32])
def test_a_caption_does_not_depend_on_its_neighbours(checkpoint: Checkpoint, backend: TorchBackend, size: int) -> None:
    captions = [f"{first} {second}" for first in CAPTIONS for second in ("", *CAPTIONS[:3])]
    rows = token_ids(checkpoint, captions)
    alone = np.concatenate([backend.forward(Tower.TEXT, row[None]) for row in rows])
    order = np.random.default_rng(size).permutation(len(rows))
    mixed = np.empty_like(alone)
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        mixed[chosen] = backend.forward(Tower.TEXT, rows[chosen])
    assert 1 - (alone.astype(float) * mixed).sum(1).min() <= 1e-6


def test_an_image_does_not_depend_on_its_neighbours(checkpoint: Checkpoint, backend: TorchBackend) -> None:
    rows, _ = decoded_pictures(checkpoint)
    alone = np.concatenate([backend.forward(Tower.IMAGE, row[None]) for row in rows])
    assert 1 - (alone.astype(float) * backend.forward(Tower.IMAGE, rows)).sum(1).min() <= 1e-6


def test_scale_bias_and_sizes_are_the_checkpoints(checkpoint: Checkpoint, reference: Reference) -> None:
    assert checkpoint.logit_scale == pytest.approx(reference.model.logit_scale.item())
    assert checkpoint.logit_bias == pytest.approx(reference.model.logit_bias.item())
    assert checkpoint.dimension == reference.model.config.vision_config.hidden_size
    assert checkpoint.tokenizer.layout.length == reference.model.config.text_config.max_position_embeddings


@pytest.mark.parametrize("tower", list(Tower))
def test_a_tower_alone_is_the_same_tower(
    checkpoint: Checkpoint, folder: Path, backend: TorchBackend, tower: Tower
) -> None:
    lone = load_checkpoint(read_folder(folder, folder.name), MAX_TEXT_BYTES, [tower])
    assert list(lone.towers) == [tower]
    assert (lone.fingerprint, lone.dimension) == (checkpoint.fingerprint, checkpoint.dimension)
    assert (lone.logit_scale, lone.logit_bias) == (checkpoint.logit_scale, checkpoint.logit_bias)
    alone = TorchBackend(lone.towers, lone.preprocessing, "cpu", threads=1)
    assert list(alone.towers) == [tower]
    rows = token_ids(lone, list(CAPTIONS)) if tower is Tower.TEXT else decoded_pictures(lone)[0]
    np.testing.assert_array_equal(alone.forward(tower, rows), backend.forward(tower, rows))


def test_special_ids_are_the_families(tmp_path: Path) -> None:
    ids = {}
    for family in ("siglip", "siglip2"):
        files = read_folder(write_checkpoint(tmp_path / family, family), family)
        layout = load_checkpoint(files, MAX_TEXT_BYTES).tokenizer.layout
        ids[family] = (layout.pad_id, layout.eos_id)
    assert ids == {"siglip": (1, 1), "siglip2": (0, 1)}


@pytest.fixture
def breakable(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint", "siglip")


def state(folder: Path, tower: str | None, name: str, value: object) -> None:
    """Change a value of config.json."""
    config = json.loads((folder / "config.json").read_text())
    (config[tower] if tower else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(read_folder(folder, "broken"), MAX_TEXT_BYTES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_weights_are_refused_not_drawn_at_random(breakable: Path) -> None:
    weights = load_file(breakable / "model.safetensors")
    del weights["logit_bias"]
    save_file(weights, breakable / "model.safetensors", {"format": "pt"})
    assert "the weights lack 1 tensors, logit_bias first" in refused(breakable)


def test_a_scale_of_many_numbers_is_refused(breakable: Path) -> None:
    weights = load_file(breakable / "model.safetensors")
    weights["logit_scale"] = weights["logit_scale"].repeat(2)
    save_file(weights, breakable / "model.safetensors", {"format": "pt"})
    assert "expected one number in logit_scale, not shape (2,)" in refused(breakable)


def test_damaged_weights_are_refused(breakable: Path) -> None:
    weights = (breakable / "model.safetensors").read_bytes()
    (breakable / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(breakable) in refused(breakable)


def test_weights_of_another_shape_are_refused(breakable: Path) -> None:
    state(breakable, "text_config", "vocab_size", 601)
    assert "text_model.embeddings.token_embedding.weight first: expected (601, 48), not (600, 48)" in refused(breakable)


@pytest.mark.parametrize(
    ("tower", "name", "value", "message"),
    [
        ("text_config", "num_attention_heads", 7, "num_heads"),
        ("text_config", "num_attention_heads", 0, "ZeroDivisionError"),
        ("vision_config", "hidden_act", "no_such", "no_such"),
        (None, "attn_implementation", "flash_attention_2", "ImportError"),
        (None, "quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}, "ImportError"),
    ],
)
def test_what_transformers_cannot_load_is_told_on_one_line(
    breakable: Path, tower: str | None, name: str, value: object, message: str
) -> None:
    state(breakable, tower, name, value)
    assert message in refused(breakable)


def test_what_transformers_logs_is_not_printed_beside_the_log(checkpoint: Checkpoint) -> None:
    logger = logging.getLogger("transformers")
    assert (logger.handlers, logger.propagate, logger.level) == ([], True, logging.ERROR)


def test_towers_of_different_dimensions_are_refused(breakable: Path) -> None:
    state(breakable, "text_config", "projection_size", 24)
    weights = load_file(breakable / "model.safetensors")
    weights["text_model.head.weight"] = weights["text_model.head.weight"][:24].contiguous()
    weights["text_model.head.bias"] = weights["text_model.head.bias"][:24].contiguous()
    save_file(weights, breakable / "model.safetensors", {"format": "pt"})
    assert "captions have 24 dimensions, images 48" in refused(breakable)


def test_a_preprocessor_of_another_size_is_refused(breakable: Path) -> None:
    path = breakable / "preprocessor_config.json"
    path.write_text(path.read_text().replace("32", "64"))
    assert "the image tower takes 32 pixels, the preprocessor makes 64" in refused(breakable)


def test_the_fingerprint_moves_with_every_ingredient_and_with_nothing_else(breakable: Path, tmp_path: Path) -> None:
    def fingerprint(folder: Path) -> str:
        return load_checkpoint(read_folder(folder, folder.name), MAX_TEXT_BYTES).fingerprint

    def changed(name: str, file: str, old: str, new: str) -> str:
        folder = tmp_path / name
        shutil.copytree(breakable, folder)
        text = (folder / file).read_text("utf-8")
        assert old in text
        (folder / file).write_text(text.replace(old, new), "utf-8")
        return fingerprint(folder)

    original = fingerprint(breakable)
    moved = tmp_path / "elsewhere"
    shutil.copytree(breakable, moved)
    assert fingerprint(moved) == original
    assert changed("unrelated", "tokenizer_config.json", '"model_max_length": 16', '"model_max_length": 99') == original

    others = {
        "resample": changed("resample", "preprocessor_config.json", '"resample": 3', '"resample": 2'),
        "mean": changed("mean", "preprocessor_config.json", '"image_mean": [0.5', '"image_mean": [0.4'),
        "std": changed("std", "preprocessor_config.json", '"image_std": [0.5', '"image_std": [0.4'),
        "rescale": changed(
            "rescale", "preprocessor_config.json", '"rescale_factor": 0.0039', '"rescale_factor": 0.0038'
        ),
        "tokenizer": changed("tokenizer", "tokenizer.json", '"lstrip": false', '"lstrip": true'),
        "punctuation": changed("punctuation", "tokenizer_config.json", "PreTrainedTokenizerFast", "SiglipTokenizer"),
        "pad": changed("pad", "tokenizer_config.json", '"pad_token": "</s>"', '"pad_token": "<unk>"'),
        "activation": changed("activation", "config.json", "gelu_pytorch_tanh", "gelu"),
        "epsilon": changed("epsilon", "config.json", "1e-06", "1e-05"),
    }
    weights = tmp_path / "weights"
    shutil.copytree(breakable, weights)
    tensors = load_file(weights / "model.safetensors")
    tensors["logit_scale"] += 1e-3
    save_file(tensors, weights / "model.safetensors", {"format": "pt"})
    others["weights"] = fingerprint(weights)
    assert original not in others.values()
    assert len(set(others.values())) == len(others)
