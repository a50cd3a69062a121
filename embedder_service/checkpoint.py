"""A SigLIP checkpoint as two towers, a scale and a bias.

Owns loading the weights and the fingerprint's ingredients. Knows nothing of queues or gRPC.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers.models.siglip.modeling_siglip import SiglipModel
from transformers.utils import logging as transformers_logging

from embedder_service.checkpoint_files import CheckpointError, CheckpointFiles
from embedder_service.fingerprint import VectorSpace, file_digest, weights_digest
from embedder_service.images import Preprocessing
from embedder_service.texts import NORMALISATION_VERSION, CaptionTokenizer

# The log is JSON lines of our own: no handler and no progress bar of transformers' beside it.
transformers_logging.disable_default_handler()
transformers_logging.enable_propagation()
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is served."""

    name: str
    fingerprint: str
    dimension: int
    logit_scale: float
    """Natural logarithm of the factor on the cosine."""
    logit_bias: float
    preprocessing: Preprocessing
    tokenizer: CaptionTokenizer
    model: SiglipModel


def load_checkpoint(files: CheckpointFiles, max_text_bytes: int) -> Checkpoint:
    """Load the weights in float32. Raises CheckpointError when the parts don't fit together."""
    try:
        weights = weights_digest(files.weights)
        model = _load_model(files)
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
        fingerprint=space.fingerprint(),
        dimension=files.architecture.dimension,
        logit_scale=float(model.logit_scale.item()),
        logit_bias=float(model.logit_bias.item()),
        preprocessing=files.preprocessing,
        tokenizer=tokenizer,
        model=model,
    )


def _load_model(files: CheckpointFiles) -> SiglipModel:
    """Raises ValueError for what transformers can't load, a missing tensor, or one of another shape."""
    try:
        loaded: Any = SiglipModel.from_pretrained(
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
    model: SiglipModel
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
