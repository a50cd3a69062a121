"""Captions -> token ids: the layout SigLIP was trained on, and the limits."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedder_service.checkpoint_files import DEMO_FOLDER, read_folder
from embedder_service.texts import CaptionTokenizer, TokenisedCaption, normalise
from service_runtime.errors import InvalidArgument
from tests.unit.embedder_service.checkpoints import CAPTIONS, Reference

LENGTH = 20


def demo_tokenizer(**config: str) -> CaptionTokenizer:
    files = read_folder(DEMO_FOLDER, "demo")
    return CaptionTokenizer(files.tokenizer_json, files.tokenizer_config | config, LENGTH, 4096, max_bytes=1000)


TOKENIZER = demo_tokenizer()


def tokenised(caption: str, tokenizer: CaptionTokenizer = TOKENIZER) -> TokenisedCaption:
    (result,) = tokenizer.tokenise([caption], "texts")
    assert isinstance(result, TokenisedCaption), result
    return result


def test_token_ids_are_those_of_the_checkpoints_own_tokenizer(folder: Path, reference: Reference) -> None:
    files = read_folder(folder, "any")
    text = reference.model.config.text_config
    tokenizer = CaptionTokenizer(
        files.tokenizer_json, files.tokenizer_config, text.max_position_embeddings, text.vocab_size, 32_768
    )
    captions = [*CAPTIONS, *(" ".join(CAPTIONS[:n]) for n in range(2, len(CAPTIONS)))]
    results = [tokenised(caption, tokenizer).token_ids for caption in captions]
    np.testing.assert_array_equal(np.stack(results), reference.token_ids(captions))


@given(st.text(min_size=1, max_size=80).filter(lambda text: text.split() and "<" not in text))
@settings(max_examples=200, deadline=None)
def test_every_row_is_words_then_eos_then_padding(caption: str) -> None:
    layout, row = TOKENIZER.layout, tokenised(caption).token_ids
    assert row.shape == (LENGTH,)
    end = int(np.argmax(row == layout.eos_id))
    assert row[end] == layout.eos_id
    assert not (row[:end] == layout.pad_id).any()
    assert (row[end + 1 :] == layout.pad_id).all()


def test_case_and_white_space_do_not_matter() -> None:
    np.testing.assert_array_equal(
        tokenised("  A\tDog \n on  a BEACH ").token_ids, tokenised("a dog on a beach").token_ids
    )
    assert normalise("\u00a0Ä\u2003 b ") == "ä b"


def test_a_long_caption_is_cut_keeps_its_eos_and_says_so() -> None:
    long = tokenised("dog " * 100)
    assert long.truncated
    assert long.token_ids[-1] == TOKENIZER.layout.eos_id
    np.testing.assert_array_equal(long.token_ids[:-1], tokenised("dog " * (LENGTH - 1)).token_ids[:-1])


def test_a_caption_that_just_fits_is_not_called_truncated() -> None:
    assert not tokenised("dog " * (LENGTH - 1)).truncated
    assert tokenised("dog " * LENGTH).truncated


@pytest.mark.parametrize("blank", ["", " ", "\n\t  ", "\u3000\u2003"])
def test_blank_captions_fail_alone(blank: str) -> None:
    good, bad, last = TOKENIZER.tokenise(["a dog", blank, "a cat"], "texts")
    assert isinstance(bad, InvalidArgument)
    assert bad.message.startswith("texts[1]: expected a caption with words")
    assert isinstance(good, TokenisedCaption)
    assert isinstance(last, TokenisedCaption)
    np.testing.assert_array_equal(last.token_ids, tokenised("a cat").token_ids)


def test_the_limit_is_in_bytes_and_inclusive() -> None:
    assert isinstance(TOKENIZER.tokenise(["é" * 500], "texts")[0], TokenisedCaption)
    (fault,) = TOKENIZER.tokenise(["é" * 500 + "e"], "texts")
    assert isinstance(fault, InvalidArgument)
    assert fault.message == "texts[0]: expected at most 1000 bytes of UTF-8, not 1001"


def test_siglips_tokenizer_class_strips_punctuation() -> None:
    stripping = demo_tokenizer(tokenizer_class="SiglipTokenizer")
    np.testing.assert_array_equal(
        tokenised("A dog, on (a) beach!", stripping).token_ids, tokenised("a dog on a beach").token_ids
    )
    assert not np.array_equal(tokenised("a dog, on a beach").token_ids, tokenised("a dog on a beach").token_ids)
    assert tokenised("?!", stripping).token_ids[0] == stripping.layout.eos_id


def test_an_unknown_special_token_is_refused() -> None:
    with pytest.raises(ValueError, match="eos_token '<end>', which the tokenizer does not know"):
        demo_tokenizer(eos_token="<end>")


def test_a_token_past_the_text_towers_vocabulary_fails_alone() -> None:
    files = read_folder(DEMO_FOLDER, "demo")
    small = CaptionTokenizer(files.tokenizer_json, files.tokenizer_config, LENGTH, 300, max_bytes=1000)
    (fault,) = small.tokenise(["a beautiful dog"], "texts")
    assert isinstance(fault, InvalidArgument)
    assert "expected token ids under 300, not" in fault.message


def test_many_threads_get_the_same_ids() -> None:
    captions = [f"{first} and {second}" for first in CAPTIONS for second in CAPTIONS]
    alone = [tokenised(caption).token_ids for caption in captions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda caption: tokenised(caption).token_ids, captions * 10))
    for position, ids in enumerate(together):
        np.testing.assert_array_equal(ids, alone[position % len(captions)])
