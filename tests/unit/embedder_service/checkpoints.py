"""Checkpoint folders of SigLIP's and SigLIP 2's kind with random weights, and what transformers makes of a folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

CAPTIONS = (
    "a dog on a beach",
    "two cats asleep on a red sofa",
    "THE EIFFEL TOWER AT NIGHT",
    "x",
    "an old man who mends a fishing net beside the harbour while gulls wait on the wall for what he may drop",
    "snow",
    "Ärger über Öl — naïve café, 東京の夜 🦊",
    "a bowl of soup (with noodles), seen from above!",
)
"""Captions of all lengths and scripts; single-spaced, so that transformers needs no rule for white space."""


def write_checkpoint(folder: Path, family: str, seed: int = 0) -> Path:
    """A checkpoint folder of a family: "siglip" (Unigram, pad = EOS = 1, bicubic, a preprocessor_config.json) or
    "siglip2" (BPE, pad 0, EOS 1, bilinear, a processor_config.json).
    """
    folder.mkdir(parents=True, exist_ok=True)
    second = family == "siglip2"
    eos, pad = ("<eos>", "<pad>") if second else ("</s>", "</s>")
    torch.manual_seed(seed)
    tower = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config=tower | {"vocab_size": 600, "max_position_embeddings": 16, "projection_size": 48},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
    )
    model = SiglipModel(config)
    # A fresh model maps everything to nearly one vector; wider weights tell captions and images apart.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    _tokenizer(second, eos).save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": pad, "model_max_length": 16},
    )
    stated = {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 2 if second else 3,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    if second:
        _write_json(folder / "processor_config.json", {"image_processor": stated})
    else:
        _write_json(folder / "preprocessor_config.json", stated)
    return folder


def _tokenizer(second: bool, eos: str) -> Tokenizer:
    special = ["<pad>", eos, "<unk>"] if second else ["<unk>", eos]
    trainer: Any
    if second:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
        trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False
        )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator([caption.lower() for caption in CAPTIONS], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {eos}", special_tokens=[(eos, 1)])
    return tokenizer


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), "utf-8")


@dataclass(frozen=True)
class Reference:
    """transformers' own tokenizer, image processor and model for a folder."""

    tokenizer: Any
    image_processor: Any
    model: Any

    @classmethod
    def of(cls, folder: Path) -> "Reference":
        return cls(
            AutoTokenizer.from_pretrained(folder),
            SiglipImageProcessorPil.from_pretrained(folder),
            SiglipModel.from_pretrained(folder, dtype=torch.float32).eval(),
        )

    def token_ids(self, captions: list[str]) -> np.ndarray:
        length = self.model.config.text_config.max_position_embeddings
        encoded = self.tokenizer(
            [caption.lower() for caption in captions], padding="max_length", truncation=True, max_length=length
        )
        return np.array(encoded["input_ids"])

    def pixel_values(self, images: list[Image.Image]) -> np.ndarray:
        return np.asarray(self.image_processor(images=images, return_tensors="pt")["pixel_values"])

    def text_vectors(self, captions: list[str]) -> np.ndarray:
        with torch.inference_mode():
            pooled = self.model.get_text_features(input_ids=torch.from_numpy(self.token_ids(captions))).pooler_output
        return _unit(pooled)

    def image_vectors(self, images: list[Image.Image]) -> np.ndarray:
        with torch.inference_mode():
            pooled = self.model.get_image_features(
                pixel_values=torch.from_numpy(self.pixel_values(images))
            ).pooler_output
        return _unit(pooled)


def _unit(pooled: torch.Tensor) -> np.ndarray:
    vectors = pooled.double().numpy()
    unit: np.ndarray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit
