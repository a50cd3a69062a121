"""What each usual mistake around a SigLIP costs, on the demo checkpoint: ``python -m benchmarks.traps``.

Owns the mistakes that ``embedder_service.mistakes`` doesn't make for everybody. Every one is made alone, the rest done
right. Recall is task recall: the share of captions whose own picture stands among the k best. FAISS is not needed:
1,644 pictures are compared exactly.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from eyebright_cli.annotations import parse_caption, parse_metadata
from eyebright_cli.demo.gallery import gallery_tar
from eyebright_cli.webdataset_tar import read_samples
from PIL import Image
from rich.progress import track
from tokenizers import Tokenizer
from torch.nn import functional

from benchmarks.cross_modal import unit
from benchmarks.report import machine, put
from embedder_service.checkpoint_files import DEMO, find_checkpoint
from embedder_service.mistakes import of_captions, of_pictures
from embedder_service.reference_towers import ReferenceTowers

_SEED = 5
_HEAD = ("done wrong", "recall@1, right", "wrong", "recall@10, right", "wrong", "cosine to the right vector, median")
_BICUBIC = Image.Resampling.BICUBIC

Pictures = Sequence[Image.Image]
Pixels = np.ndarray
"""(n, size, size, 3) uint8."""


@dataclass(frozen=True, slots=True)
class Row:
    """One mistake."""

    what: str
    right: tuple[float, float]
    """Recall@1 and recall@10 without it."""
    wrong: tuple[float, float]
    """With it."""
    cosine: float | None
    """Between the vectors with and without it, median; None where the vectors are the same."""

    def line(self) -> str:
        """Of the table."""
        (one, ten), (wrong_one, wrong_ten) = self.right, self.wrong
        cosine = "" if self.cosine is None else f"{self.cosine:.4f}"
        return f"| {self.what} | {one:.1%} | {wrong_one:.1%} | {ten:.1%} | {wrong_ten:.1%} | {cosine} |"


class Traps:
    """Makes one mistake after another."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        files = find_checkpoint(DEMO)
        self._towers = ReferenceTowers(files)
        self._tokenizer = Tokenizer.from_file(str(files.tokenizer_json))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        with gallery_tar() as tar:
            samples = sorted(read_samples(tar), key=lambda sample: sample.key)
        self.labels = [parse_caption(sample.annotations[".txt"]) or "" for sample in samples]
        tags = [parse_metadata(sample.annotations[".json"])["tags"] for sample in samples]
        self._long = [f"{label}, {', '.join(own)}" for label, own in zip(self.labels, tags, strict=True)]
        self._originals = [Image.open(io.BytesIO(sample.image)).convert("RGB") for sample in samples]
        self._ids = self._towers.token_ids(self.labels)
        self._pixels = self._towers.decoded([sample.image for sample in samples])
        right_captions, *self._cheap_captions = of_captions(self._towers, self._ids)
        right_pictures, *self._cheap_pictures = of_pictures(self._towers, self._pixels)
        self._captions, self._pictures = right_captions.vectors, right_pictures.vectors
        self._right = recalls(self._captions, self._pictures)

    def measure(self) -> None:
        """All of them."""
        for step in track(
            [
                self._padding,
                self._wording,
                self._cutting,
                self._values,
                self._resizing,
                self._files,
                self._outputs,
                self._mixing,
            ],
            "traps",
        ):
            step()

    def _caption(self, what: str, wrong: np.ndarray) -> None:
        """Captions (n, dimension) done wrong, pictures right."""
        row = Row(what, self._right, recalls(wrong, self._pictures), _cosine(wrong, self._captions))
        self.rows.append(row)

    def _picture(
        self, what: str, wrong: np.ndarray, right: np.ndarray | None = None, captions: np.ndarray | None = None
    ) -> None:
        """Pictures (n, dimension) done wrong, captions right."""
        right = self._pictures if right is None else right
        captions = self._captions if captions is None else captions
        row = Row(what, recalls(captions, right), recalls(captions, wrong), _cosine(wrong, right))
        self.rows.append(row)

    def _padding(self) -> None:
        for made in self._cheap_captions:
            self._caption(made.how, made.vectors)
        self._caption("captions padded to the longest of 32", self._towers.texts_padded_to_the_longest(self._ids, 32))

    def _wording(self) -> None:
        towers, tokenizer = self._towers, self._tokenizer
        spaced = [f" {label.replace(' ', '  ')}\n" for label in self.labels]
        self._caption("white space not collapsed: two spaces, a line's end", towers.texts(self._encoded(spaced)))
        lower = tokenizer.normalizer
        tokenizer.normalizer = None
        for what, captions in (
            ("Captions Written Like This, not lower-cased", [label.title() for label in self.labels]),
            ("CAPTIONS IN CAPITALS, not lower-cased", [label.upper() for label in self.labels]),
        ):
            self._caption(what, towers.texts(self._encoded(captions)))
        tokenizer.normalizer = lower

    def _encoded(self, captions: list[str]) -> np.ndarray:
        return self._laid_out([encoding.ids[:-1] for encoding in self._tokenizer.encode_batch(captions)])

    def _laid_out(self, bodies: Sequence[Sequence[int]]) -> np.ndarray:
        """Token ids (n, length) of tokens without EOS."""
        layout = self._towers.layout
        rows = np.full((len(bodies), layout.length), layout.pad_id)
        for row, body in zip(rows, bodies, strict=True):
            kept = body[: layout.length - 1]
            row[: len(kept)] = kept
            row[len(kept)] = layout.eos_id
        return rows

    def _cutting(self) -> None:
        towers = self._towers
        bodies = [encoding.ids[:-1] for encoding in self._tokenizer.encode_batch(self._long)]
        rows = np.array([number for number, body in enumerate(bodies) if len(body) >= towers.layout.length])
        right = towers.texts(towers.token_ids([self._long[row] for row in rows]))
        cut = towers.texts(np.array([bodies[row][: towers.layout.length] for row in rows]))
        what = f"EOS lost where a caption is cut (the {len(rows):,} with tags that are too long)"
        before, after = (recalls(captions, self._pictures, rows) for captions in (right, cut))
        self.rows.append(Row(what, before, after, _cosine(cut, right)))

    def _values(self) -> None:
        for made in self._cheap_pictures:
            self._picture(made.how, made.vectors)
        mean = torch.tensor([0.4815, 0.4578, 0.4082]).view(3, 1, 1)
        deviation = torch.tensor([0.2686, 0.2613, 0.2758]).view(3, 1, 1)
        wrong = self._towers.pictures(self._pixels, normalise=lambda values: (values / 255 - mean) / deviation)
        self._picture("mean and deviation of CLIP", wrong)

    def _resizing(self) -> None:
        towers, side = self._towers, self._towers.side
        for name, resample in (("bilinear", Image.Resampling.BILINEAR), ("nearest", Image.Resampling.NEAREST)):
            wrong = _resized(self._originals, side, resample)
            self._picture(f"resized {name}, not bicubic", towers.pictures(wrong))
        self._picture("resized bicubic by torch, with antialias", towers.pictures(self._by_torch(antialias=True)))
        self._picture("resized bicubic by torch, without antialias", towers.pictures(self._by_torch(antialias=False)))
        for first, why in ((73, "as 256 for a model of 224"), (48, "a thumbnail"), (32, "a small thumbnail")):
            small = [picture.resize((first, first), _BICUBIC) for picture in self._originals]
            wrong = _resized(small, side, _BICUBIC)
            self._picture(f"resized to {first} pixels first ({why}), then to {side}", towers.pictures(wrong))
        wide = [_on_a_wide_canvas(picture, number) for number, picture in enumerate(self._originals)]
        squashed, cropped = (_resized(made, side, _BICUBIC) for made in (wide, [_middle(picture) for picture in wide]))
        self._picture(
            "the middle cropped, not squashed (pictures twice as wide as high, the thing anywhere)",
            towers.pictures(cropped),
            towers.pictures(squashed),
        )

    def _by_torch(self, *, antialias: bool) -> Pixels:
        originals = torch.from_numpy(np.stack([np.asarray(picture) for picture in self._originals])).permute(0, 3, 1, 2)
        size = [self._towers.side] * 2
        resized = functional.interpolate(
            originals.float(), size, mode="bicubic", align_corners=False, antialias=antialias
        )
        pixels: np.ndarray = resized.round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()
        return pixels

    def _files(self) -> None:
        towers, side = self._towers, self._towers.side
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = [picture.transpose(Image.Transpose.ROTATE_90) for picture in self._originals]
        self._picture(
            "EXIF orientation ignored (all pictures stored on their side)",
            towers.pictures(_resized(turned, side, _BICUBIC)),
            towers.pictures(towers.decoded([_file(picture, "PNG", exif=exif) for picture in turned])),
        )
        cut_out = [_cut_out(picture) for picture in self._originals]
        self._picture(
            "transparency dropped, so that what is behind is black (pictures cut out)",
            towers.pictures(_resized([picture.convert("RGB") for picture in cut_out], side, _BICUBIC)),
            towers.pictures(towers.decoded([_file(picture, "PNG") for picture in cut_out])),
        )
        large = [_file(picture.resize((1024, 1024), _BICUBIC), "JPEG", quality=90) for picture in self._originals[::4]]
        rows = np.arange(0, len(self._originals), 4)
        whole = np.concatenate([_resized([Image.open(io.BytesIO(file))], side, _BICUBIC) for file in large])
        self._picture(
            f"Eyebright's own short cut: JPEGs of {1024 // side} times the size decoded small (every fourth picture)",
            towers.pictures(towers.decoded(large)),
            towers.pictures(whole),
            self._captions[rows],
        )

    def _outputs(self) -> None:
        towers = self._towers
        at_once = len(self._ids)
        ends = torch.from_numpy(towers.lengths(self._ids) - 1)
        mistakes: dict[str, Callable[[Any], Any]] = {
            "captions pooled at EOS, not at the last position": lambda states: states[torch.arange(at_once), ends],
            "captions pooled by their mean": lambda states: states.mean(dim=1),
        }
        for what, pool in mistakes.items():
            pooled = towers.texts(self._ids, batch=at_once, take=partial(_pooled, pool, towers.text_head))
            self._caption(what, pooled)
        patches = towers.pictures(self._pixels, take=lambda output: output.last_hidden_state.mean(dim=1))
        self._picture("pictures pooled by the mean of their patches, without the attention head", patches)
        captions, pictures = self._captions, self._pictures
        inner = _ranks(captions @ pictures.T)
        distance = _ranks(2 * captions @ pictures.T - (pictures**2).sum(axis=1))
        for what, ranks in (("inner product", inner), ("L2 distance", distance)):
            wrong = (float((ranks < 1).mean()), float((ranks < 10).mean()))
            self.rows.append(Row(f"vectors not scaled to length 1, {what}", self._right, wrong, None))

    def _mixing(self) -> None:
        """Vectors of another checkpoint: the same shape, other weights."""
        other = self._towers.of_other_weights(_SEED)
        captions, pictures = other.texts(self._ids), other.pictures(self._pixels)
        half = np.where(np.arange(len(pictures))[:, None] % 2 == 0, self._pictures, pictures)
        self._picture("half of the pictures by another checkpoint of the same size", half)
        self._caption("captions by another checkpoint of the same size", captions)


def _pooled(pool: Callable[[Any], Any], head: Callable[[Any], Any], output: Any) -> Any:  # noqa: ANN401
    return head(pool(output.last_hidden_state))


def recalls(captions: np.ndarray, pictures: np.ndarray, rows: np.ndarray | None = None) -> tuple[float, float]:
    """Task recall@1 and recall@10 of captions (n, dimension) whose pictures are these rows; row i's by default."""
    ranks = _ranks(unit(captions) @ unit(pictures).T, rows)
    return float((ranks < 1).mean()), float((ranks < 10).mean())


def _ranks(scores: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """How many pictures score better than the caption's own, (n,)."""
    rows = np.arange(len(scores)) if rows is None else rows
    ranks: np.ndarray = (scores > scores[np.arange(len(scores)), rows][:, None]).sum(axis=1)
    return ranks


def _cosine(some: np.ndarray, others: np.ndarray) -> float:
    return float(np.median((unit(some) * unit(others)).sum(axis=1)))


def _resized(pictures: Pictures, side: int, resample: Image.Resampling) -> Pixels:
    return np.stack([np.asarray(picture.convert("RGB").resize((side, side), resample)) for picture in pictures])


def _file(picture: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _on_a_wide_canvas(picture: Image.Image, number: int) -> Image.Image:
    """Twice as wide as high, white, the picture anywhere on it."""
    canvas = Image.new("RGB", (2 * picture.width, picture.height), "white")
    canvas.paste(picture, (int(np.random.default_rng([_SEED, number]).integers(picture.width + 1)), 0))
    return canvas


def _middle(picture: Image.Image) -> Image.Image:
    left = (picture.width - picture.height) // 2
    return picture.crop((left, 0, left + picture.height, picture.height))


def _cut_out(picture: Image.Image) -> Image.Image:
    """What is white becomes transparent, with black behind it, as many programs write it."""
    pixels = np.array(picture.convert("RGBA"))
    pixels[(pixels[..., :3] > 250).all(axis=2)] = 0
    return Image.fromarray(pixels)


def main(
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the table into.")] = None,
    as_json: Annotated[Path | None, typer.Option("--json", help="File to write the same to, as JSON.")] = None,
) -> None:
    """Make every mistake alone, and measure what it costs."""
    traps = Traps()
    traps.measure()
    title = (
        f"{len(traps.labels):,} captions and pictures of the demo gallery, the demo checkpoint; {machine('torch')}. A "
        "picture is found by chance in 0.06 % (recall@1) or 0.6 % (recall@10)."
    )
    table = "\n".join([f"| {' | '.join(_HEAD)} |", "|" + "---|" * len(_HEAD), *(row.line() for row in traps.rows)])
    if as_json is not None:
        facts = {"title": title, "rows": [asdict(row) for row in traps.rows]}
        as_json.write_text(json.dumps(facts), "utf-8")
    if output is not None:
        put(output, "traps", f"{title}\n\n{table}")
    typer.echo(f"{title}\n\n{table}")


if __name__ == "__main__":
    typer.run(main)
