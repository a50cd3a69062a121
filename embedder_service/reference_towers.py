"""A checkpoint as transformers has it, in float32, with every step in the open, so that one can be done otherwise.

Owns batches of token ids and of pixels through transformers' own towers. The service doesn't use it: it is what
mistakes are measured with. Source of the towers: ``transformers.models.siglip``.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from transformers.models.siglip.configuration_siglip import SiglipConfig
from transformers.models.siglip.modeling_siglip import SiglipModel

from embedder_service.backends import Tower
from embedder_service.checkpoint import load_checkpoint
from embedder_service.checkpoint_files import CheckpointFiles
from embedder_service.images import ImageDecoder
from embedder_service.texts import TokenisedCaption

_MAX_TEXT_BYTES = 32 * 1024
_MAX_IMAGE_BYTES = 64 * 1024 * 1024
_MAX_IMAGE_PIXELS = 100_000_000
_BATCH = 16

Take = Callable[[Any], Any]
"""From what a tower returns to rows, (n, dimension)."""


class ReferenceTowers:
    """Both towers, done right where nothing else is said. Vectors are not scaled to length 1."""

    def __init__(self, files: CheckpointFiles) -> None:
        self._folder = files.folder
        checkpoint = load_checkpoint(files, _MAX_TEXT_BYTES)
        loaded: Any = SiglipModel.from_pretrained(
            files.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        self._model = loaded.eval()
        self._tokenizer = checkpoint.tokenizer
        self.layout = checkpoint.tokenizer.layout
        self.side = checkpoint.preprocessing.size
        self._decoder = ImageDecoder(checkpoint.preprocessing, _MAX_IMAGE_BYTES, _MAX_IMAGE_PIXELS)
        scale, offset = checkpoint.preprocessing.affine()
        self._scale, self._offset = torch.tensor(scale).view(3, 1, 1), torch.tensor(offset).view(3, 1, 1)

    def of_other_weights(self, seed: int) -> "ReferenceTowers":
        """The same architecture with weights that know nothing."""
        other = copy(self)
        torch.manual_seed(seed)
        made: Any = SiglipModel(SiglipConfig.from_pretrained(self._folder))
        other._model = made.eval()
        return other

    @property
    def text_head(self) -> Take:
        """What the text tower applies to the position it pools."""
        head: Take = self._model.text_model.head
        return head

    def token_ids(self, captions: Sequence[str]) -> np.ndarray:
        """Token ids (n, length). Raises InvalidArgument for a caption that is refused."""
        rows = []
        for outcome in self._tokenizer.tokenise(captions, "captions"):
            if not isinstance(outcome, TokenisedCaption):
                raise outcome
            rows.append(outcome.token_ids)
        return np.stack(rows)

    def lengths(self, ids: np.ndarray) -> np.ndarray:
        """Tokens up to EOS, which is counted, (n,)."""
        lengths: np.ndarray = (ids == self.layout.eos_id).argmax(axis=1) + 1
        return lengths

    def decoded(self, files: Sequence[bytes]) -> np.ndarray:
        """Pixels (n, size, size, 3) uint8, as the service decodes. Raises InvalidArgument."""
        return np.stack([self._decoder.decode(encoded, f"images[{number}]") for number, encoded in enumerate(files)])

    def texts(
        self, ids: np.ndarray, *, mask: np.ndarray | None = None, batch: int = _BATCH, take: Take | None = None
    ) -> np.ndarray:
        """Captions of token ids (n, length), with an attention mask of the same shape if one is given."""

        def arguments(part: slice) -> dict[str, torch.Tensor]:
            masked = {} if mask is None else {"attention_mask": torch.from_numpy(mask[part])}
            return {"input_ids": torch.from_numpy(ids[part]), **masked}

        return self._run(Tower.TEXT, map(arguments, _parts(len(ids), batch)), take)

    def texts_padded_to_the_longest(self, ids: np.ndarray, batch: int) -> np.ndarray:
        """Captions padded no further than the longest of each batch."""
        lengths = self.lengths(ids)
        arguments = (
            {"input_ids": torch.from_numpy(ids[part, : lengths[part].max()])} for part in _parts(len(ids), batch)
        )
        return self._run(Tower.TEXT, arguments)

    def pictures(
        self,
        pixels: np.ndarray,
        *,
        normalise: Callable[[torch.Tensor], torch.Tensor] | None = None,
        take: Take | None = None,
    ) -> np.ndarray:
        """Pictures of pixels (n, size, size, 3); ``normalise`` gets values 0 to 255, (n, 3, size, size)."""
        ready = normalise or self.normalised
        arguments = (
            {"pixel_values": ready(torch.from_numpy(pixels[part]).permute(0, 3, 1, 2).float())}
            for part in _parts(len(pixels), _BATCH)
        )
        return self._run(Tower.IMAGE, arguments, take)

    def normalised(self, values: torch.Tensor) -> torch.Tensor:
        """What the image tower takes, of values 0 to 255, (n, 3, size, size)."""
        return values * self._scale + self._offset

    def _run(self, tower: Tower, arguments: Iterator[dict[str, torch.Tensor]], take: Take | None = None) -> np.ndarray:
        model = self._model.text_model if tower is Tower.TEXT else self._model.vision_model
        taken = take or (lambda output: output.pooler_output)
        with torch.inference_mode():
            vectors: np.ndarray = torch.cat([taken(model(**each)) for each in arguments]).numpy()
        return vectors


def _parts(count: int, size: int) -> Iterator[slice]:
    for begin in range(0, count, size):
        yield slice(begin, begin + size)
