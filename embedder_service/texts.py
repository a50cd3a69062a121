"""Captions -> token ids of fixed length.

Owns the text normalisation rule and its version, the limits of a caption, and the layout that SigLIP was trained on:
lower case, cut to the length with EOS kept, padded on the right, no attention mask. Knows nothing of models, queues or
gRPC.
"""

import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from service_runtime.errors import InvalidArgument

NORMALISATION_VERSION = 1
"""Version of normalise(); part of the fingerprint, so it moves whenever the rule does."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(caption: str) -> str:
    """Lower case, white space collapsed to single spaces, none at the ends."""
    return " ".join(caption.lower().split())


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """How a checkpoint lays out the tokens of a caption."""

    length: int
    """Tokens of every caption, EOS and padding included."""
    eos_id: int
    """Ends every caption, cut or not."""
    pad_id: int
    """Fills up to the length: 1 for SigLIP (its EOS), 0 for SigLIP 2."""
    strips_punctuation: bool
    """Whether ASCII punctuation is removed, as the tokenizer class of SigLIP (not of SigLIP 2) does."""


@dataclass(frozen=True, slots=True)
class TokenisedCaption:
    """One caption as the text tower takes it."""

    token_ids: np.ndarray
    """(length,) int64."""
    truncated: bool
    """Whether it had more tokens than the length."""


class CaptionTokenizer:
    """Tokenises captions. Thread-safe: the tokenizer is only read once built.

    Raises ValueError when the file, the special tokens and the vocabulary don't fit together.
    """

    def __init__(
        self, tokenizer_json: Path, config: dict[str, Any], length: int, vocabulary: int, max_bytes: int
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # tokenizers raises bare Exception
            raise ValueError(f"{tokenizer_json.name} is no tokenizer: {error}") from error
        # Cutting and padding are done here: the file may state others than the checkpoint's.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._max_bytes = max_bytes
        self._vocabulary = vocabulary
        self.layout = TokenLayout(
            length=length,
            eos_id=self._special_id(config, "eos_token", vocabulary),
            pad_id=self._special_id(config, "pad_token", vocabulary),
            strips_punctuation=str(config.get("tokenizer_class", "")).startswith("SiglipTokenizer"),
        )
        self._appends_eos = self._tokenizer.encode("a").ids[-1] == self.layout.eos_id

    def _special_id(self, config: dict[str, Any], name: str, vocabulary: int) -> int:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        token_id = self._tokenizer.token_to_id(content) if isinstance(content, str) else None
        if token_id is None:
            raise ValueError(f"tokenizer_config.json names {name} {content!r}, which the tokenizer does not know")
        if token_id >= vocabulary:
            raise ValueError(f"{name} {content!r} has id {token_id}, past the text tower's {vocabulary} tokens")
        return token_id

    def tokenise(self, captions: Sequence[str], field: str) -> list[TokenisedCaption | InvalidArgument]:
        """One result per caption, in order; a fault names ``field[position]``."""
        checked = self.check(captions)
        encoded = iter(self.encode([text for text in checked if isinstance(text, str)]))
        results = [next(encoded) if isinstance(text, str) else text for text in checked]
        return [
            InvalidArgument(result.message, field=f"{field}[{position}]")
            if isinstance(result, InvalidArgument)
            else result
            for position, result in enumerate(results)
        ]

    def check(self, captions: Iterable[str]) -> list[str | InvalidArgument]:
        """Each caption as it is tokenised: captions that become the same text have the same vector. A fault, which
        names no field, for what is too long or blank.
        """
        checked: list[str | InvalidArgument] = []
        for caption in captions:
            try:
                checked.append(self._checked(caption))
            except InvalidArgument as fault:
                checked.append(fault)
        return checked

    def encode(self, texts: Sequence[str]) -> list[TokenisedCaption | InvalidArgument]:
        """One result per text that was checked, in order; a fault names no field."""
        # The batch form is the one that lets other Python threads run meanwhile.
        return [self._laid_out(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _checked(self, caption: str) -> str:
        """The text to tokenise. Raises InvalidArgument for what is too long or blank."""
        size = len(caption.encode())
        if size > self._max_bytes:
            raise InvalidArgument(f"expected at most {self._max_bytes} bytes of UTF-8, not {size}")
        text = normalise(caption)
        if not text:
            raise InvalidArgument(f"expected a caption with words, not {size} bytes of white space")
        return normalise(text.translate(_PUNCTUATION)) if self.layout.strips_punctuation else text

    def _laid_out(self, ids: list[int]) -> TokenisedCaption | InvalidArgument:
        """Cut with EOS kept, padded on the right."""
        if max(ids, default=0) >= self._vocabulary:
            return InvalidArgument(f"expected token ids under {self._vocabulary}, not {max(ids)}")
        body = ids[:-1] if self._appends_eos else ids
        kept = body[: self.layout.length - 1]
        row = np.full(self.layout.length, self.layout.pad_id, np.int64)
        row[: len(kept)] = kept
        row[len(kept)] = self.layout.eos_id
        return TokenisedCaption(row, truncated=len(body) > len(kept))
