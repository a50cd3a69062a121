"""A SigLIP checkpoint as one or two towers, a scale and a bias.

Owns loading the weights and the fingerprint's ingredients. Knows nothing of queues or gRPC.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers.models.siglip.modeling_siglip import SiglipModel, SiglipTextModel, SiglipVisionModel
from transformers.utils import logging as transformers_logging

from embedder_service.backends import Tower
from embedder_service.checkpoint_files import CheckpointError, CheckpointFiles
from embedder_service.fingerprint import VectorSpace, file_digest, weights_digest
from embedder_service.images import Preprocessing
from embedder_service.texts import NORMALISATION_VERSION, CaptionTokenizer

# The log is JSON lines of our own: no handler and no progress bar of transformers' beside it.
transformers_logging.disable_default_handler()
transformers_logging.enable_propagation()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


TowerModel = SiglipTextModel | SiglipVisionModel


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is served."""

    name: str
    revision: str
    """Commit of a checkpoint of the hub; empty for any other."""
    fingerprint: str
    """Of the whole checkpoint, whichever towers are loaded."""
    dimension: int
    logit_scale: float
    """Natural logarithm of the factor on the cosine."""
    logit_bias: float
    preprocessing: Preprocessing
    tokenizer: CaptionTokenizer
    towers: Mapping[Tower, TowerModel]
    """The towers that are loaded."""


def load_checkpoint(
    files: CheckpointFiles, max_text_bytes: int, towers: Collection[Tower] = tuple(Tower)
) -> Checkpoint:
    """Load the weights of some towers in float32. Raises CheckpointError when the parts don't fit together."""
    try:
        weights = weights_digest(files.weights)
        logit_scale, logit_bias = _read_scalars(files.weights, "logit_scale", "logit_bias")
        models = _load_towers(files, towers)
        tokenizer = CaptionTokenizer(
            files.tokenizer_json,
            files.tokenizer_config,
            length=files.architecture.text_length,
            vocabulary=files.architecture.vocabulary,
            max_bytes=max_text_bytes,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{files.folder}: {' '.join(str(error).split())[:500]}") from error
    space = VectorSpace(
        weights=weights,
        architecture=asdict(files.architecture),
        preprocessing=asdict(files.preprocessing),
        text_layout=asdict(tokenizer.layout),
        text_normalisation=NORMALISATION_VERSION,
        tokenizer=file_digest(files.tokenizer_json),
    )
    return Checkpoint(
        name=files.name,
        revision=files.revision,
        fingerprint=space.fingerprint(),
        dimension=files.architecture.dimension,
        logit_scale=logit_scale,
        logit_bias=logit_bias,
        preprocessing=files.preprocessing,
        tokenizer=tokenizer,
        towers=models,
    )


def _load_towers(files: CheckpointFiles, towers: Collection[Tower]) -> dict[Tower, TowerModel]:
    """Raises ValueError for what transformers can't load, a missing tensor, or one of another shape."""
    match sorted(towers):
        case [Tower.IMAGE, Tower.TEXT]:
            whole = _load_model(SiglipModel, files)
            return {Tower.TEXT: whole.text_model, Tower.IMAGE: whole.vision_model}
        case [Tower.TEXT]:
            return {Tower.TEXT: _load_model(SiglipTextModel, files)}
        case [Tower.IMAGE]:
            return {Tower.IMAGE: _load_model(SiglipVisionModel, files)}
    raise ValueError(f"expected one tower or both, not {sorted(towers)}")


def _load_model(kind: type[Any], files: CheckpointFiles) -> Any:  # noqa: ANN401
    """The part of the checkpoint that ``kind`` is; transformers reads no other weights."""
    try:
        loaded: Any = kind.from_pretrained(
            files.folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # refused below, with both shapes
            output_loading_info=True,
        )
    except Exception as error:  # a dozen unrelated types: a bad file, a value of config.json, a library it asks for
        raise ValueError(f"transformers can't load it ({type(error).__name__}: {error})") from error
    model, report = loaded
    if mismatched := sorted(report["mismatched_keys"]):
        name, stored, expected = mismatched[0]
        raise ValueError(
            f"the weights have {len(mismatched)} tensors of another shape than config.json says, {name} first: "
            f"expected {tuple(expected)}, not {tuple(stored)}"
        )
    # Tensors of no use here are let be: old checkpoints store position ids.
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {len(absent)} tensors, {absent[0]} first")
    model.requires_grad_(False)
    model.eval()
    return model


def _read_scalars(files: Collection[Path], *names: str) -> tuple[float, ...]:
    """Tensors of one number, which no tower holds. Raises ValueError for one that is absent, or is more than that."""
    found: dict[str, float] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            for name in set(names) & set(opened.keys()):
                tensor = opened.get_tensor(name)
                if tensor.numel() != 1:
                    raise ValueError(f"expected one number in {name}, not shape {tuple(tensor.shape)}")
                found[name] = float(tensor.item())
    if absent := [name for name in names if name not in found]:
        raise ValueError(f"the weights lack {len(absent)} tensors, {absent[0]} first")
    return tuple(found[name] for name in names)
