"""A checkpoint held against transformers, without serving it: what ``python -m embedder_service check`` looks at.

Owns the checks of token ids, pixels and vectors, each made with transformers' own classes on the same items, and the
making of golden vectors. Knows nothing of queues or gRPC.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.modeling_siglip import SiglipModel

from embedder_service.backends import Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO_FOLDER, CheckpointFiles
from embedder_service.golden import FILE_NAME, LEAST_COSINE, Golden, computed, cosine, read_golden, write_golden
from embedder_service.images import ImageDecoder
from embedder_service.texts import normalise
from service_runtime.cores import usable_cores

_MAX_TEXT_BYTES = 32 * 1024
_MAX_IMAGE_BYTES = 1024 * 1024
_MAX_IMAGE_PIXELS = 1_000_000

_READ_ALIKE = ("landscape.png", "panorama.jpg", "gray.png")
"""Of the golden pictures those that transformers reads as we do: it heeds neither EXIF orientation nor transparency."""

_PIXEL_TOLERANCE = 1e-5
"""Between values of about -1 to 1. A step of one in 255 is 8e-3."""

_COSINE_TOLERANCE = 1e-6


class _Fault(Exception):
    """A check failed; the message says how, with figures."""


class _Skipped(Exception):
    """A check can't be made here; the message says why."""


@dataclass(frozen=True)
class _Subject:
    """A checkpoint as we read it, and as transformers does."""

    files: CheckpointFiles
    checkpoint: Checkpoint
    backend: TorchBackend
    decoder: ImageDecoder
    items: Golden
    """Captions and pictures to try; their vectors are those of another checkpoint."""

    @property
    def captions(self) -> list[str]:
        """Captions of all lengths and many scripts."""
        return [caption.text for caption in self.items.captions]

    @property
    def pictures(self) -> list[bytes]:
        """Encoded pictures that transformers reads as we do."""
        return [picture.encoded for picture in self.items.pictures if picture.name in _READ_ALIKE]

    @cached_property
    def token_ids(self) -> np.ndarray:
        """Ours, (n, text_length) int64."""
        tokenised = self.checkpoint.tokenizer.tokenise(self.captions, "captions")
        for outcome in tokenised:
            if isinstance(outcome, Exception):
                raise _Fault(str(outcome))
        return np.stack([outcome.token_ids for outcome in tokenised if not isinstance(outcome, Exception)])

    @cached_property
    def their_token_ids(self) -> np.ndarray:
        """Theirs, (n, text_length) int64. What we do to a caption first is our own rule, so they get its result."""
        tokenizer: Any = AutoTokenizer.from_pretrained(
            self.files.folder, local_files_only=True, trust_remote_code=False
        )
        encoded = tokenizer(
            [normalise(caption) for caption in self.captions],
            padding="max_length",
            truncation=True,
            max_length=self.files.architecture.text_length,
        )
        return np.array(encoded["input_ids"], np.int64)

    @cached_property
    def pixels(self) -> np.ndarray:
        """Ours, (n, size, size, 3) uint8."""
        return np.stack([self.decoder.decode(encoded, "picture") for encoded in self.pictures])

    @cached_property
    def their_pixel_values(self) -> torch.Tensor:
        """Theirs, (n, 3, size, size) float32."""
        processor: Any = SiglipImageProcessorPil.from_pretrained(self.files.folder, local_files_only=True)
        images = [Image.open(io.BytesIO(encoded)) for encoded in self.pictures]
        return torch.as_tensor(processor(images=images, return_tensors="pt")["pixel_values"])

    @cached_property
    def their_model(self) -> Any:  # noqa: ANN401
        """Both towers in float32."""
        model: Any = SiglipModel.from_pretrained(
            self.files.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        return model.eval()


def _layout(subject: _Subject) -> str:
    layout = subject.checkpoint.tokenizer.layout
    rows = subject.token_ids
    if rows.shape[1] != subject.files.architecture.text_length:
        raise _Fault(f"expected {subject.files.architecture.text_length} tokens, not {rows.shape[1]}")
    for caption, row in zip(subject.captions, rows, strict=True):
        kept = int(np.flatnonzero(row == layout.eos_id)[0]) if layout.eos_id in row else len(row)
        if kept == len(row):
            raise _Fault(f"{caption!r} does not end with the EOS {layout.eos_id}")
        if (row[kept + 1 :] != layout.pad_id).any():
            raise _Fault(f"{caption!r} is not padded on the right with {layout.pad_id}: {row.tolist()}")
    punctuation = "without" if layout.strips_punctuation else "with"
    return f"{layout.length} tokens, EOS {layout.eos_id} kept, padded with {layout.pad_id}, {punctuation} punctuation"


def _token_ids(subject: _Subject) -> str:
    ours, theirs = subject.token_ids, subject.their_token_ids
    if ours.shape != theirs.shape:
        raise _Fault(f"ours are {ours.shape[1]} a caption, transformers' {theirs.shape[1]}")
    for caption, our_row, their_row in zip(subject.captions, ours, theirs, strict=True):
        if (our_row != their_row).any():
            place = int(np.flatnonzero(our_row != their_row)[0])
            raise _Fault(f"{caption!r}: token {place} is {our_row[place]}, transformers' {their_row[place]}")
    return f"{len(ours)} captions, equal to transformers'"


def _pixels(subject: _Subject) -> str:
    ours = subject.backend.pixel_values(torch.from_numpy(subject.pixels))
    theirs = subject.their_pixel_values
    if ours.shape != theirs.shape:
        raise _Fault(f"ours have shape {tuple(ours.shape)}, transformers' {tuple(theirs.shape)}")
    furthest = float((ours - theirs).abs().max())
    said = f"{len(ours)} pictures, greatest difference to transformers' {furthest:.1e}"
    if not furthest <= _PIXEL_TOLERANCE:
        raise _Fault(f"{said}, at most {_PIXEL_TOLERANCE:.0e} expected")
    return said


def _text_vectors(subject: _Subject) -> str:
    """Each side from its own token ids."""
    ours = subject.backend.forward(Tower.TEXT, subject.token_ids)
    with torch.inference_mode():
        theirs = subject.their_model.get_text_features(input_ids=torch.from_numpy(subject.their_token_ids))
    return _compared(ours, theirs.pooler_output)


def _image_vectors(subject: _Subject) -> str:
    """Each side from its own pixels."""
    ours = subject.backend.forward(Tower.IMAGE, subject.pixels)
    with torch.inference_mode():
        theirs = subject.their_model.get_image_features(pixel_values=subject.their_pixel_values)
    return _compared(ours, theirs.pooler_output)


def _compared(ours: np.ndarray, pooled: torch.Tensor) -> str:
    theirs = pooled.double().numpy()
    theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
    furthest = float(1 - np.einsum("nd,nd->n", ours.astype(np.float64), theirs).min())
    said = f"{len(ours)} vectors, greatest cosine difference to transformers' {furthest:.1e}"
    if not furthest <= _COSINE_TOLERANCE:
        raise _Fault(f"{said}, at most {_COSINE_TOLERANCE:.0e} expected")
    return said


def _golden(subject: _Subject) -> str:
    path = subject.files.folder / FILE_NAME
    if not path.is_file():
        raise _Skipped(f"no {FILE_NAME} beside the weights: `python -m embedder_service golden` makes one")
    golden = read_golden(path)
    checkpoint = subject.checkpoint
    if golden.fingerprint != checkpoint.fingerprint:
        raise _Fault(f"{path} is of fingerprint {golden.fingerprint}, the checkpoint has {checkpoint.fingerprint}")
    again = computed(golden, checkpoint.tokenizer, subject.decoder, subject.backend, golden.fingerprint, "")
    pairs = zip(golden.vectors, again.vectors, strict=True)
    found = [cosine(old, new) for old, new in pairs if old is not None and new is not None]
    if not found:
        raise _Fault(f"{path} holds no vector")
    said = f"{len(found)} vectors, least cosine to the golden ones {min(found):.8f}"
    if not min(found) >= LEAST_COSINE["fp32"]:
        raise _Fault(f"{said}, at least {LEAST_COSINE['fp32']} expected")
    return said


_CHECKS: dict[str, Callable[[_Subject], str]] = {
    "layout": _layout,
    "token ids": _token_ids,
    "pixels": _pixels,
    "text vectors": _text_vectors,
    "image vectors": _image_vectors,
    "golden vectors": _golden,
}


def check(files: CheckpointFiles, output: TextIO) -> int:
    """Make every check and write a line for each; returns the exit status. Raises CheckpointError."""
    subject = _subject(files)
    checkpoint = subject.checkpoint
    stated = {
        "model": f"{checkpoint.name} ({files.folder})",
        "fingerprint": checkpoint.fingerprint,
        "vectors": f"{checkpoint.dimension} dimensions, images of {checkpoint.preprocessing.size} pixels, "
        f"{checkpoint.preprocessing.resample.name.lower()}",
    }
    for name, value in stated.items():
        output.write(f"        {name:<16}{value}\n")
    failed = False
    for name, look in _CHECKS.items():
        outcome, said = _outcome(look, subject)
        failed |= outcome == "FAILED"
        output.write(f"{outcome:<8}{name:<16}{said}\n")
        output.flush()
    return int(failed)


def _outcome(look: Callable[[_Subject], str], subject: _Subject) -> tuple[str, str]:
    try:
        return "ok", look(subject)
    except _Skipped as reason:
        return "skipped", str(reason)
    except _Fault as fault:
        return "FAILED", str(fault)
    except Exception as error:  # whatever transformers makes of the folder, the other checks go on
        return "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


def make_golden(files: CheckpointFiles, output: Path | None) -> Path:
    """Write the golden vectors of a checkpoint; returns where. Raises CheckpointError."""
    subject = _subject(files)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "pillow"))
    made_by = f"python -m embedder_service golden, fp32 on the CPU ({libraries})"
    checkpoint = subject.checkpoint
    golden = computed(
        subject.items, checkpoint.tokenizer, subject.decoder, subject.backend, checkpoint.fingerprint, made_by
    )
    path = output or files.folder / FILE_NAME
    write_golden(path, golden)
    return path


def _subject(files: CheckpointFiles) -> _Subject:
    checkpoint = load_checkpoint(files, _MAX_TEXT_BYTES)
    return _Subject(
        files,
        checkpoint,
        TorchBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", usable_cores()),
        ImageDecoder(checkpoint.preprocessing, _MAX_IMAGE_BYTES, _MAX_IMAGE_PIXELS),
        read_golden(DEMO_FOLDER / FILE_NAME),
    )
