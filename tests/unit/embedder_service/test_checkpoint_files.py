"""Finding a checkpoint, and refusing what can't be served before any weight is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from embedder_service.checkpoint_files import DEMO_FOLDER, CheckpointError, find_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "checkpoint"
    target.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DEMO_FOLDER / name, target)
    write(target / "preprocessor_config.json", {"size": {"height": 64, "width": 64}, "resample": 3})
    return target


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), "utf-8")


def test_demo_is_the_bundled_folder() -> None:
    files = find_checkpoint("demo")
    assert files.name == "demo"
    assert files.folder == DEMO_FOLDER
    assert files.preprocessing.size == 64


def test_defaults_of_the_preprocessor_are_transformers_own(folder: Path) -> None:
    preprocessing = find_checkpoint(str(folder)).preprocessing
    assert preprocessing.resample is Image.Resampling.BICUBIC
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert preprocessing.rescale_factor == 1 / 255


def test_naflex_is_refused_by_its_name(folder: Path) -> None:
    write(folder / "config.json", {"model_type": "siglip2"})
    with pytest.raises(CheckpointError, match=r"not 'siglip2': this is a NaFlex checkpoint .* google/siglip2-base"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("model_type", ["clip", None])
def test_other_kinds_of_model_are_refused_by_name(folder: Path, model_type: str | None) -> None:
    write(folder / "config.json", {"model_type": model_type})
    with pytest.raises(CheckpointError, match=f"expected model_type 'siglip' .*, not {model_type!r}"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    expected = {
        "model.safetensors": r"no \*.safetensors",
        "preprocessor_config.json": "processor_config.json is missing",
    }
    with pytest.raises(CheckpointError, match=expected.get(name, f"{name} is missing")):
        find_checkpoint(str(folder))


def test_pickled_weights_are_never_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="other formats of weights are not loaded"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"size": {"height": 64, "width": 32}}, "square size, not 32 x 64"),
        ({"size": {"shortest_edge": 64}}, "'height' is missing"),
        ({"size": {"height": 64, "width": 64}, "do_rescale": False}, "do_rescale true, not False"),
        ({"size": {"height": 64, "width": 64}, "resample": 99}, "99"),
        ({"size": {"height": 64, "width": 64}, "image_mean": [0.5]}, "values to unpack"),
    ],
)
def test_a_preprocessor_that_siglip_never_has_is_refused(folder: Path, stated: dict[str, Any], message: str) -> None:
    write(folder / "preprocessor_config.json", stated)
    with pytest.raises(CheckpointError, match=message):
        find_checkpoint(str(folder))


def test_what_is_no_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"config.json can't be read"):
        find_checkpoint(str(folder))


@pytest.mark.parametrize("model", ["/no/such/folder", "one-word", "a/b/c", "./x/y"])
def test_what_is_neither_folder_nor_hub_id_is_refused(model: str) -> None:
    with pytest.raises(CheckpointError, match="neither 'demo', nor a folder, nor an OWNER/NAME"):
        find_checkpoint(model)
