"""The digest of weights, and what a vector space is made of."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from embedder_service.fingerprint import VectorSpace, weights_digest

TENSORS = {name: np.arange(i + 1, dtype=np.float32) for i, name in enumerate(("b", "a", "logit_scale"))}


def space(**changed: Any) -> VectorSpace:
    fields: dict[str, Any] = {
        "weights": "w",
        "architecture": {"heads": 1, "layers": 2},
        "preprocessing": {"size": 64},
        "text_layout": {"length": 20},
        "text_normalisation": 1,
        "tokenizer": "t",
    }
    return VectorSpace(**fields | changed)


def write(path: Path, *names: str) -> Path:
    save_file({name: TENSORS[name] for name in names}, path)
    return path


def test_the_digest_knows_neither_files_nor_their_order(tmp_path: Path) -> None:
    whole = weights_digest([write(tmp_path / "whole.safetensors", "b", "a", "logit_scale")])
    first = write(tmp_path / "1.safetensors", "logit_scale")
    second = write(tmp_path / "2.safetensors", "a", "b")
    assert weights_digest([first, second]) == weights_digest([second, first]) == whole


def test_the_digest_moves_with_values_names_shapes_and_types(tmp_path: Path) -> None:
    variants: list[dict[str, np.ndarray]] = [
        {"a": np.zeros(4, np.float32)},
        {"a": np.ones(4, np.float32)},
        {"b": np.zeros(4, np.float32)},
        {"a": np.zeros((2, 2), np.float32)},
        {"a": np.zeros(4, np.int32)},
        {"a": np.zeros(4, np.float32), "c": np.zeros(0, np.float32)},
    ]
    digests = set()
    for number, tensors in enumerate(variants):
        save_file(tensors, tmp_path / f"{number}.safetensors")
        digests.add(weights_digest([tmp_path / f"{number}.safetensors"]))
    assert len(digests) == len(variants)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / "1.safetensors", "a"), write(tmp_path / "2.safetensors", "a", "b")]
    with pytest.raises(ValueError, match=r"tensor a stands in 1.safetensors and in 2.safetensors"):
        weights_digest(files)


@pytest.mark.parametrize("content", [b"", b"1234567", b"\xff" * 100, b"\x02" + bytes(7) + b"[]"])
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.safetensors is no safetensors file"):
        weights_digest([path])


def test_a_fingerprint_is_64_hexadecimal_digits_and_repeats() -> None:
    fingerprint = space().fingerprint()
    assert len(fingerprint) == 64
    assert set(fingerprint) <= set("0123456789abcdef")
    assert space().fingerprint() == fingerprint
    assert space(architecture={"layers": 2, "heads": 1}).fingerprint() == fingerprint


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(VectorSpace)])
def test_every_field_of_the_space_moves_the_fingerprint(field: str) -> None:
    assert space(**{field: "another"}).fingerprint() != space().fingerprint()
