"""Turn a training run into the checkpoint folder and the demo gallery that ship with the project.

Owns the files' form: a folder that AutoModel and AutoProcessor load, and a WebDataset tar of the unseen style.
"""

import io
import json
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
import webdataset
from PIL import Image
from transformers import PreTrainedTokenizerFast, SiglipImageProcessorPil, SiglipProcessor

from . import art
from .evaluate import flatten
from .network import IMAGE_SIZE, TEXT_LENGTH, new_model

GALLERY_PIXELS = 128


def export_checkpoint(run: Path, folder: Path) -> None:
    """Write config, fp16 weights, tokenizer and pre-processing of the last saved averages of a run into ``folder``."""
    average = torch.load(run / "training-state.pt", weights_only=True)["average"]
    model = new_model()
    model.load_state_dict(
        {name.removeprefix("module."): value for name, value in average.items() if name != "n_averaged"}
    )
    model.half().save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(run / "tokenizer.json"),
        model_max_length=TEXT_LENGTH,
        padding_side="right",
        unk_token="<unk>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        model_input_names=["input_ids"],
    )
    images = SiglipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    SiglipProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(folder)


def export_gallery(node_modules: Path, path: Path) -> int:
    """Write every picture of the unseen style as a WebDataset tar, the same bytes every time; return how many."""
    emoji = art.read_emoji(node_modules)
    partial = path.with_suffix(".part")
    count = 0
    with partial.open("wb") as stream, webdataset.TarWriter(stream, mtime=0, user="", group="") as tar:
        for index, drawing in art.draw_style(node_modules, art.GALLERY_STYLE, emoji, GALLERY_PIXELS):
            one = emoji[index]
            png = io.BytesIO()
            palette = flatten(drawing).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            palette.save(png, "PNG", optimize=True)
            metadata = {"group": one.group, "subgroup": one.subgroup, "tags": list(one.tags), "hexcode": one.hexcode}
            tar.write(
                {
                    "__key__": one.key,
                    "png": png.getvalue(),
                    "txt": one.label,
                    "json": json.dumps(metadata, ensure_ascii=False).encode(),
                }
            )
            count += 1
    partial.replace(path)
    return count


def main(
    run: Annotated[Path, typer.Option(help="Folder of the training run.")],
    node_modules: Annotated[Path, typer.Option(help="Where npm installed the packages of package.json.")],
    checkpoint: Annotated[Path, typer.Option(help="Folder to write the checkpoint to.")],
    gallery: Annotated[Path, typer.Option(help="Tar file to write the gallery to.")],
) -> None:
    """Export checkpoint and gallery."""
    export_checkpoint(run, checkpoint)
    export_gallery(node_modules, gallery)
    shutil.copy(run / "log.jsonl", checkpoint / "training" / "log.jsonl")


if __name__ == "__main__":
    typer.run(main)
