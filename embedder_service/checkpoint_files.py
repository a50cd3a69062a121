"""The files of a SigLIP checkpoint: where they are and what they state.

Owns finding the folder (the bundled one, a given one, the hub's) and reading its JSON. Loads no weights and imports no
torch, so that a wrong folder is refused at once.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from embedder_service.architecture import Architecture, parse_architecture
from embedder_service.images import Preprocessing

DEMO = "demo"
"""Name of the bundled checkpoint."""

DEMO_FOLDER = Path(__file__).parent / "demo_checkpoint"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_HUB_PATTERNS = ("*.json", "*.safetensors")


class CheckpointError(ValueError):
    """What was asked for can't be served; the message says why, on one line."""


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A checkpoint folder, read and checked but for its weights."""

    name: str
    """As it was asked for."""
    revision: str
    """Commit of a checkpoint that came from the hub, 40 hexadecimal digits; empty for any other."""
    folder: Path
    """Where config.json stands."""
    weights: tuple[Path, ...]
    """The safetensors files, by name."""
    tokenizer_json: Path
    tokenizer_config: dict[str, Any]
    architecture: Architecture
    preprocessing: Preprocessing


def find_checkpoint(model: str, revision: str | None = None) -> CheckpointFiles:
    """The checkpoint called "demo", in a folder, or under a hub id. Raises CheckpointError."""
    if model == DEMO:
        return read_folder(DEMO_FOLDER, DEMO)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return read_folder(folder, model)
    if _HUB_ID.fullmatch(model):
        snapshot = _fetch(model, revision)
        return read_folder(snapshot, model, revision=snapshot.name)  # the cache calls it by its commit
    raise CheckpointError(f"model {model!r} is neither 'demo', nor a folder, nor an OWNER/NAME of the Hugging Face hub")


def read_folder(folder: Path, name: str, revision: str = "") -> CheckpointFiles:
    """The checkpoint in a folder of Hugging Face's layout. Raises CheckpointError, naming the file at fault."""
    config = _read_json(folder / "config.json")
    try:
        architecture = parse_architecture(config)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    weights = tuple(sorted(folder.glob("*.safetensors")))
    if not weights:
        raise CheckpointError(f"{folder} holds no *.safetensors; other formats of weights are not loaded")
    tokenizer_json = folder / "tokenizer.json"
    if not tokenizer_json.is_file():
        raise CheckpointError(f"{tokenizer_json} is missing")
    preprocessing = _preprocessing(folder)
    if preprocessing.size != architecture.image_size:
        raise CheckpointError(
            f"{folder}: the image tower takes {architecture.image_size} pixels, the preprocessor makes "
            f"{preprocessing.size}"
        )
    return CheckpointFiles(
        name=name,
        revision=revision,
        folder=folder,
        weights=weights,
        tokenizer_json=tokenizer_json,
        tokenizer_config=_read_json(folder / "tokenizer_config.json"),
        architecture=architecture,
        preprocessing=preprocessing,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error
    if not isinstance(read, dict):
        raise CheckpointError(f"{path}: expected a JSON object, not {type(read).__name__}")
    return read


def _preprocessing(folder: Path) -> Preprocessing:
    """From preprocessor_config.json, or from processor_config.json where transformers 5 writes the same.

    What a file leaves out has the value of transformers' SiglipImageProcessor.
    """
    path = folder / "preprocessor_config.json"
    stated = _read_json(path) if path.is_file() else None
    if stated is None:
        path = folder / "processor_config.json"
        stated = _read_json(path).get("image_processor")
    try:
        return _parse_preprocessing(stated)
    except KeyError as error:
        raise CheckpointError(f"{path}: {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _parse_preprocessing(stated: object) -> Preprocessing:
    """Raises ValueError, TypeError or KeyError for what SigLIP's processor could not mean."""
    if not isinstance(stated, dict):
        raise ValueError(f"expected an object for the image processor, not {stated!r}")
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if stated.get(step, True) is not True:
            raise ValueError(f"expected {step} true, not {stated[step]!r}")
    height, width = stated["size"]["height"], stated["size"]["width"]
    if height != width:
        raise ValueError(f"expected a square size, not {width} x {height}")
    return Preprocessing(
        size=int(height),
        resample=Image.Resampling(stated.get("resample", Image.Resampling.BICUBIC)),
        rescale_factor=float(stated.get("rescale_factor", 1 / 255)),
        mean=_channels(stated.get("image_mean", [0.5] * 3)),
        std=_channels(stated.get("image_std", [0.5] * 3)),
    )


def _channels(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _fetch(hub_id: str, revision: str | None) -> Path:
    """The hub's snapshot in the local cache, downloaded when it is not there. No code of the hub's is ever run."""
    from huggingface_hub import snapshot_download  # only a hub id needs it

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(_HUB_PATTERNS)))
    except Exception as error:  # a dozen unrelated types: no network, no such repository, gated, no such revision
        reason = str(error).strip().partition("\n")[0]
        at = f" --revision {revision}" if revision else ""
        raise CheckpointError(
            f"can't fetch {hub_id} from the Hugging Face hub ({type(error).__name__}: {reason}). Where there is a "
            f"network run: hf download {hub_id}{at} --local-dir FOLDER; then give the folder: --model FOLDER"
        ) from error
