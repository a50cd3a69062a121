"""The result types."""

import math

import numpy as np
import pytest
from eyebright.embedder.v1 import embedder_service_pb2 as embedder_pb2
from eyebright_client import Embeddings, InvalidArgument, Model, NotFound, Record, SearchResult
from eyebright_client._messages import read_model

MODEL = Model("demo", "0" * 64, 4, 64, 16, 2.5, -8.0, 64, 2**20, 2**20, 2**15)


def test_probability_is_the_sigmoid_of_scaled_cosine() -> None:
    for cosine in (-1.0, 0.0, 0.31, 1.0):
        expected = 1.0 / (1.0 + math.exp(-(math.exp(2.5) * cosine - 8.0)))
        assert math.isclose(float(MODEL.probability(cosine)), expected, rel_tol=1e-12)
    assert MODEL.probability(np.zeros((2, 3))).shape == (2, 3)


def test_probability_does_not_overflow() -> None:
    steep = Model("steep", "0" * 64, 4, 64, 16, 9.0, -8.0, 64, 2**20, 2**20, 2**15)
    assert np.all(np.isfinite(steep.probability(np.array([-1.0, 1.0]))))


def test_a_model_read_from_an_embedder_of_either_age() -> None:
    old = embedder_pb2.GetModelResponse(model=embedder_pb2.Model(name="demo", dimension=4))
    assert read_model(old).towers == ("text", "image")
    stated = embedder_pb2.Model(
        towers=[embedder_pb2.TOWER_IMAGE], precision="bf16", revision="ab" * 20, accepts_pixels=True
    )
    model = read_model(embedder_pb2.GetModelResponse(model=stated))
    assert (model.towers, model.precision, model.revision, model.accepts_pixels) == (
        ("image",),
        "bf16",
        "ab" * 20,
        True,
    )


def test_embeddings_raise_the_error_of_a_failed_item() -> None:
    error = InvalidArgument("blank", position=1)
    embeddings = Embeddings(np.eye(3, 4, dtype=np.float32), "f", "text", frozenset({2}), {1: error})
    assert len(embeddings) == 3
    assert embeddings[0].modality == "text"
    assert embeddings[-1].truncated
    with pytest.raises(InvalidArgument, match="blank"):
        embeddings[1]
    with pytest.raises(IndexError):
        embeddings[3]
    assert [one.truncated for one in embeddings[::2]] == [False, True]


def test_a_search_result_is_a_sequence_of_hits() -> None:
    result = SearchResult(
        ids=("a", "b"),
        scores=np.array([0.5, 0.25], np.float32),
        probabilities=np.array([0.9, 0.1]),
        records=(Record("a", caption="an A"), Record("b", metadata={"n": 1})),
    )
    assert [hit.id for hit in result] == ["a", "b"]
    assert (result[0].score, result[0].probability, result[0].caption) == (0.5, 0.9, "an A")
    assert result[-1].metadata == {"n": 1}
    assert [hit.id for hit in result[1:]] == ["b"]
    with pytest.raises(IndexError):
        result[2]


def test_a_failed_query_has_no_hits() -> None:
    failed = SearchResult(error=NotFound("no record 'x'"))
    assert not list(failed)
    assert failed.evidence is None
