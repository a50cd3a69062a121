"""Task recall of a checkpoint on styles it never saw, and on one it did.

Owns the figures that the model card states. Recalls are fractions in [0, 1].
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from tokenizers import Tokenizer
from transformers import SiglipModel

from . import art
from .captions import unshared_tags
from .drawings import load_drawings
from .network import IMAGE_SIZE, embed_ids, embed_pixels

_ALL_PATCHES = 10**6
_PICTURE_PIXELS = 128


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
    """Recall on the unseen gallery style from captions, for the training log."""
    emoji = art.read_emoji(node_modules)
    model.eval()
    indices, drawings = load_drawings(node_modules, art.GALLERY_STYLE, emoji, cache)
    shown = [emoji[i] for i in indices]
    figures = _caption_figures(model, tokenizer, shown, embed_pictures(model, [flatten(one) for one in drawings]))
    model.train()
    return figures


def _caption_figures(
    model: SiglipModel, tokenizer: Tokenizer, shown: list[art.Emoji], pictures: np.ndarray
) -> dict[str, float]:
    """Recall of labels, and of tags that share no word with the label, against the pictures (n, d) of ``shown``."""
    labels = embed_captions(model, tokenizer, [one.label for one in shown])
    tags = [unshared_tags(one) for one in shown]
    tagged = np.array([row for row, text in enumerate(tags) if text])
    meanings = embed_captions(model, tokenizer, [tags[row] for row in tagged])
    rows = np.arange(len(shown))
    return {
        "label_r1": round(recall(labels, pictures, rows, 1), 4),
        "label_r10": round(recall(labels, pictures, rows, 10), 4),
        "tags_r10": round(recall(meanings, pictures, tagged, 10), 4),
    }


def _jpeg(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


NEAR_DUPLICATES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resize": lambda p: p.resize((p.width // 2, p.height // 2), Image.Resampling.BILINEAR),
    "jpeg_q30": _jpeg,
    "rotate_10": lambda p: p.rotate(10, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)),
    "crop_80": lambda p: p.crop((p.width // 10, p.height // 10, p.width - p.width // 10, p.height - p.height // 10)),
}
"""Ways a copy of a picture differs from it: half the size, JPEG at quality 30, turned by 10 degrees, the middle 80 % of
each side."""


def full_recall(model: SiglipModel, tokenizer: Tokenizer, node_modules: Path) -> dict[str, dict[str, float]]:
    """Every figure of the model card, by style."""
    emoji = art.read_emoji(node_modules)
    model.eval()
    figures: dict[str, dict[str, float]] = {}
    vectors: dict[str, tuple[list[int], np.ndarray]] = {}
    for style in (art.GALLERY_STYLE, art.SECOND_UNSEEN_STYLE, "fluent-3d", "twemoji"):
        drawn = list(art.draw_style(node_modules, style, emoji, _PICTURE_PIXELS))
        pictures = [flatten(drawing) for _, drawing in drawn]
        vectors[style] = ([index for index, _ in drawn], embed_pictures(model, pictures))
        figures[style] = _caption_figures(model, tokenizer, [emoji[i] for i, _ in drawn], vectors[style][1])
        if style == art.GALLERY_STYLE:
            rows = np.arange(len(pictures))
            for name, change in NEAR_DUPLICATES.items():
                copies = embed_pictures(model, [change(picture) for picture in pictures])
                figures[style][f"{name}_r1"] = round(recall(copies, vectors[style][1], rows, 1), 4)
    position = {index: row for row, index in enumerate(vectors[art.GALLERY_STYLE][0])}
    indices, queries = vectors["twemoji"]
    right = np.array([position[index] for index in indices])
    figures["twemoji"]["to_noto_r1"] = round(recall(queries, vectors[art.GALLERY_STYLE][1], right, 1), 4)
    return figures


def main(
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint.")],
    node_modules: Annotated[Path, typer.Option(help="Where npm installed the packages of package.json.")],
) -> None:
    """Print the figures of the model card as JSON and keep them beside the checkpoint as figures.json."""
    model = SiglipModel.from_pretrained(checkpoint, dtype=torch.float32)
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    text = json.dumps(full_recall(model, tokenizer, node_modules), indent=2)
    (checkpoint / "figures.json").write_text(f"{text}\n", "utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
