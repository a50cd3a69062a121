"""Task recall of a checkpoint on styles it never saw, and on one it did.

Owns the figures that the model card states. Recalls are fractions in [0, 1].
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from transformers import SiglipModel

from . import art
from .captions import unshared_tags
from .network import IMAGE_SIZE, embed_ids, embed_pixels

_ALL_PATCHES = 10**6


def flatten(drawing: np.ndarray) -> Image.Image:
    """An RGBA drawing on white, RGB."""
    picture = Image.fromarray(drawing)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def embed_pictures(model: SiglipModel, pictures: list[Image.Image]) -> np.ndarray:
    """Unit vectors (n, dimension) float32 of RGB pictures, squash-resized as the services do."""
    vectors = []
    with torch.inference_mode():
        for begin in range(0, len(pictures), 64):
            resized = [
                np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
                for picture in pictures[begin : begin + 64]
            ]
            pixels = torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float() / 127.5 - 1
            vectors.append(embed_pixels(model, pixels, _ALL_PATCHES, torch.Generator()).numpy())
    return np.concatenate(vectors)


def embed_captions(model: SiglipModel, tokenizer: Tokenizer, captions: list[str]) -> np.ndarray:
    """Unit vectors (n, dimension) float32 of captions."""
    vectors = []
    with torch.inference_mode():
        for begin in range(0, len(captions), 128):
            ids = [encoding.ids for encoding in tokenizer.encode_batch(captions[begin : begin + 128])]
            vectors.append(embed_ids(model, torch.tensor(ids)).numpy())
    return np.concatenate(vectors)


def recall(queries: np.ndarray, answers: np.ndarray, right: np.ndarray, k: int) -> float:
    """The share of queries (n, d) whose right row of answers (m, d) stands among their k nearest by inner product."""
    scores = queries @ answers.T
    own = scores[np.arange(len(queries)), right]
    return float(((scores > own[:, None]).sum(1) < k).mean())


def quick_recall(model: SiglipModel, tokenizer: Tokenizer, node_modules: Path, cache: Path) -> dict[str, float]:
    """Label -> picture recall on the unseen gallery style, for the training log."""
    from .data import load_drawings

    emoji = art.read_emoji(node_modules)
    model.eval()
    indices, drawings = load_drawings(node_modules, art.GALLERY_STYLE, emoji, cache)
    pictures = embed_pictures(model, [flatten(drawing) for drawing in drawings])
    labels = embed_captions(model, tokenizer, [emoji[i].label for i in indices])
    tagged = [(row, unshared_tags(emoji[i])) for row, i in enumerate(indices)]
    tagged = [(row, tags) for row, tags in tagged if tags]
    tags = embed_captions(model, tokenizer, [text for _, text in tagged])
    model.train()
    rows = np.arange(len(pictures))
    return {
        "label_r1": round(recall(labels, pictures, rows, 1), 4),
        "label_r10": round(recall(labels, pictures, rows, 10), 4),
        "tags_r10": round(recall(tags, pictures, np.array([row for row, _ in tagged]), 10), 4),
    }
