"""Scenes of the demo gallery's pictures, embedded by the demo checkpoint: real pictures, real captions, real vectors.

Owns composing them. It runs in a process of its own, for torch and FAISS don't share one:
``python -m benchmarks.scenes FOLDER --rows 100000``. With ``--tars`` it writes pictures for ``eyebright index`` and
captions for ``eyebright evaluate``.
"""

import io
import json
import os
import tarfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from eyebright_cli.demo.gallery import gallery_tar, read_gallery
from PIL import Image, ImageDraw
from rich.progress import track

from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO, find_checkpoint
from embedder_service.images import ImageDecoder
from embedder_service.texts import TokenisedCaption

_CHUNK_ROWS = 500
_SIDE = 96
_BATCH = 64
_MAX_BYTES = 1 << 20
_MAX_PIXELS = 1 << 16
_COLOURS = {
    "white": (255, 255, 255),
    "red": (222, 60, 50),
    "orange": (243, 156, 40),
    "yellow": (250, 220, 80),
    "green": (80, 170, 90),
    "blue": (70, 120, 210),
    "purple": (150, 90, 190),
    "pink": (245, 160, 190),
    "grey": (150, 150, 150),
    "black": (25, 25, 25),
}


@dataclass(frozen=True, slots=True)
class _Thing:
    """One picture of the gallery."""

    label: str
    picture: Image.Image


class _Scenes:
    """Any scene by its number, the same for the same seed, and what embeds it."""

    def __init__(self, seed: int, threads: int) -> None:
        self._seed = seed
        self._things = _gallery()
        self._checkpoint: Checkpoint = load_checkpoint(find_checkpoint(DEMO), _MAX_BYTES)
        preprocessing = self._checkpoint.preprocessing
        self._backend = TorchBackend(self._checkpoint.towers, preprocessing, "cpu", threads)
        self._decoder = ImageDecoder(preprocessing, _MAX_BYTES, _MAX_PIXELS)

    def chunk(self, number: int, captions: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (n, dimension) float16 of the pictures of a chunk, and float32 of the captions of its first ones."""
        made = self.composed(number)
        return self.embed([encoded for encoded, _ in made], [caption for _, caption in made[:captions]])

    def composed(self, number: int) -> list[tuple[bytes, str]]:
        """A PNG and a caption for each scene of a chunk."""
        draw = np.random.default_rng([self._seed, number])
        return [self._scene(draw) for _ in range(_CHUNK_ROWS)]

    def embed(self, encoded: list[bytes], captions: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Vectors (n, dimension) float16 of pictures, and float32 of captions."""
        pixels = np.stack([self._decoder.decode(one, "scene") for one in encoded])
        tokenised = self._checkpoint.tokenizer.tokenise(captions, "captions")
        ids = np.stack([one.token_ids for one in tokenised if isinstance(one, TokenisedCaption)])
        pictures = self._vectors(Tower.IMAGE, pixels)
        return pictures.astype(np.float16), self._vectors(Tower.TEXT, ids)

    def _vectors(self, tower: Tower, inputs: np.ndarray) -> np.ndarray:
        parts = (inputs[begin : begin + _BATCH] for begin in range(0, len(inputs), _BATCH))
        return np.concatenate([self._backend.forward(tower, part) for part in parts])

    def _scene(self, draw: np.random.Generator) -> tuple[bytes, str]:
        """A PNG of one to three things on a background, and its caption."""
        colour = str(draw.choice(list(_COLOURS)))
        scene = Image.new("RGB", (_SIDE, _SIDE), _COLOURS[colour])
        if draw.random() < 0.5:
            other = _COLOURS[str(draw.choice(list(_COLOURS)))]
            begin = int(draw.integers(_SIDE // 2, _SIDE))
            ImageDraw.Draw(scene).rectangle((0, begin, _SIDE, _SIDE), fill=other)
        things = [self._things[number] for number in draw.integers(len(self._things), size=int(draw.integers(1, 4)))]
        for place, thing in enumerate(things):
            side = int(_SIDE * draw.uniform(0.6, 0.95) / len(things) ** 0.6)
            picture = thing.picture.resize((side, side)).rotate(float(draw.uniform(-15, 15)), expand=True)
            room = max(1, _SIDE - picture.width)
            left = min(room - 1, int(room * (place + draw.random()) / len(things)))
            scene.paste(picture, (left, int(draw.integers(max(1, _SIDE - picture.height)))), picture)
        encoded = io.BytesIO()
        scene.save(encoded, "PNG", compress_level=1)
        return encoded.getvalue(), " and ".join(thing.label for thing in things) + f" on a {colour} background"


def _gallery() -> list[_Thing]:
    """The pictures of the gallery, cut out of the white that they stand on."""
    with gallery_tar() as tar:
        pictures = read_gallery(tar)
    things = []
    for key in sorted(pictures, key="{}.png".format):  # a seed's scenes depend on the order
        pixels = np.array(Image.open(io.BytesIO(pictures[key].png)).convert("RGBA"))
        pixels[(pixels[..., :3] > 250).all(axis=2), 3] = 0
        things.append(_Thing(pictures[key].label, Image.fromarray(pixels)))
    return things


_scenes: _Scenes


def _prepare(seed: int) -> None:
    global _scenes
    _scenes = _Scenes(seed, threads=1)


def _chunk(captions: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    return _scenes.chunk(number, captions)


def _tar(folder: Path, number: int) -> list[str]:
    """Write a chunk as a WebDataset; returns its captions as lines of JSON."""
    lines = []
    with tarfile.open(folder / f"scenes-{number:05d}.tar", "w") as tar:
        for place, (encoded, caption) in enumerate(_scenes.composed(number), number * _CHUNK_ROWS):
            key = f"scene-{place:08d}"
            for suffix, content in ((".png", encoded), (".txt", caption.encode())):
                member = tarfile.TarInfo(key + suffix)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            lines.append(json.dumps({"id": key, "caption": caption}))
    return lines


def _write_tars(folder: Path, rows: int, seed: int) -> None:
    chunks = rows // _CHUNK_ROWS
    folder.mkdir(parents=True, exist_ok=True)
    processes = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _prepare, (seed,))
    with processes, (folder / "captions.jsonl").open("w", encoding="utf-8") as captions:
        for lines in track(processes.map(partial(_tar, folder), range(chunks)), "writing scenes", total=chunks):
            captions.writelines(f"{line}\n" for line in lines)


def _embedded_gallery() -> tuple[np.ndarray, np.ndarray]:
    """Pictures and labels, in the order of the keys."""
    with gallery_tar() as tar:
        pictures = read_gallery(tar)
    ordered = [pictures[key] for key in sorted(pictures)]
    scenes = _Scenes(seed=0, threads=os.cpu_count() or 1)
    return scenes.embed([picture.png for picture in ordered], [picture.label for picture in ordered])


def _composed(rows: int, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    chunks = rows // _CHUNK_ROWS
    each = -(-queries // chunks)
    processes = ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), _prepare, (seed,))
    with processes:
        made = processes.map(partial(_chunk, each), range(chunks))
        pictures, captions = zip(*track(made, "embedding scenes", total=chunks), strict=True)
    return np.concatenate(pictures), np.concatenate(captions)[:queries]


def main(
    folder: Annotated[Path, typer.Argument(help="Where pictures.f16 and captions.npy are written.")],
    rows: Annotated[int, typer.Option(help="Scenes; a multiple of 500.")] = 100_000,
    queries: Annotated[int, typer.Option(help="Captions that are kept.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the scenes.")] = 1,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Embed the gallery's own pictures and labels instead.")
    ] = False,
    tars: Annotated[
        bool,
        typer.Option("--tars", help="Write WebDataset tars and captions.jsonl instead, to index and evaluate."),
    ] = False,
) -> None:
    """Compose scenes, embed them and some of their captions, and write the vectors."""
    if tars:
        _write_tars(folder, rows, seed)
        return
    pictures, captions = _embedded_gallery() if gallery else _composed(rows, queries, seed)
    pictures.tofile(folder / "pictures.f16")
    np.save(folder / "captions.npy", captions)


if __name__ == "__main__":
    typer.run(main)
