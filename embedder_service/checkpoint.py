"""A SigLIP checkpoint as two towers, a scale and a bias.

Owns loading the weights and the fingerprint's ingredients. Knows nothing of queues or gRPC.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers.models.siglip.modeling_siglip import SiglipModel
from transformers.utils import logging as transformers_logging

from embedder_service.checkpoint_files import CheckpointError, CheckpointFiles
from embedder_service.fingerprint import VectorSpace, file_digest, weights_digest
from embedder_service.images import Preprocessing
from embedder_service.texts import NORMALISATION_VERSION, CaptionTokenizer

# The log is JSON lines of our own; what transformers has to say reaches it as exceptions.
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
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
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
    """Raises ValueError for a missing tensor, RuntimeError for one of another shape, SafetensorError for a bad file."""
    loaded: Any = SiglipModel.from_pretrained(
        files.folder,
        dtype=torch.float32,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    model: SiglipModel
    model, report = loaded
    # Tensors of no use here are let be: old checkpoints store position ids.
    if absent := sorted(report["missing_keys"]):
        raise ValueError(f"the weights lack {len(absent)} tensors, {absent[0]} first")
    model.requires_grad_(False)
    model.eval()
    return model
