import numpy as np
import pytest

from index_service.vector_space import LARGEST_NUMBER, Metric, VectorSpace
from service_runtime.errors import FailedPrecondition, InvalidArgument

FINGERPRINT = "ab" * 32


def space(metric: Metric, dimension: int = 4) -> VectorSpace:
    return VectorSpace(dimension, FINGERPRINT, metric)


def test_cosine_scales_each_row_to_length_1_whatever_its_size() -> None:
    vectors = np.array([[3, 4, 0, 0], [1e30, 1e30, 0, 0], [1e-40, 0, 0, 0]], np.float32)
    prepared, faults = space(Metric.COSINE).prepare(vectors)
    assert faults == {}
    np.testing.assert_allclose(prepared, [[0.6, 0.8, 0, 0], [0.5**0.5, 0.5**0.5, 0, 0], [1, 0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("metric", [Metric.INNER_PRODUCT, Metric.L2])
def test_other_metrics_leave_rows_as_they_are_and_refuse_what_float16_cannot_hold(metric: Metric) -> None:
    vectors = np.array([[3, 4, 0, 0], [LARGEST_NUMBER, 0, 0, 0], [7e4, 0, 0, 0], [0, 0, 0, 0]], np.float32)
    prepared, faults = space(metric).prepare(vectors)
    assert list(faults) == [2]
    assert "65504" in faults[2]
    assert "70000" in faults[2]
    assert (prepared[[0, 1, 3]] == vectors[[0, 1, 3]]).all()
    assert np.isfinite(prepared.astype(np.float16)).all()


def test_bad_rows_fail_alone() -> None:
    vectors = np.array([[np.nan, 1, 1, 1], [1, np.inf, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]], np.float32)
    prepared, faults = space(Metric.COSINE).prepare(vectors)
    assert set(faults) == {0, 1, 2}
    assert "NaN" in faults[0]
    assert "length" in faults[2]
    assert prepared.tolist() == [[0] * 4, [0] * 4, [0] * 4, [1, 0, 0, 0]]


def test_preparing_leaves_the_callers_array_alone() -> None:
    vectors = np.array([[3, 4, 0, 0]], np.float32)
    space(Metric.COSINE).prepare(vectors)
    assert vectors.tolist() == [[3, 4, 0, 0]]


def test_another_dimension_or_fingerprint_is_refused_with_both_values() -> None:
    own = space(Metric.L2)
    own.check(4, FINGERPRINT)
    with pytest.raises(InvalidArgument, match="expected 4 dimensions, not 5"):
        own.check(5, FINGERPRINT)
    with pytest.raises(FailedPrecondition, match=f"{FINGERPRINT}, not {'cd' * 32}"):
        own.check(4, "cd" * 32)
    with pytest.raises(InvalidArgument, match="not none"):
        own.check(4, "")


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("dimension", [1, 2, 7, 64, 513])
def test_the_score_of_a_pair_does_not_depend_on_the_other_pairs(metric: Metric, dimension: int) -> None:
    random = np.random.default_rng(dimension)
    own = space(metric, dimension)
    vectors = random.standard_normal((100, dimension)).astype(np.float16).astype(np.float32)
    query = random.standard_normal((1, dimension)).astype(np.float32)
    together = own.scores(query, vectors)
    some = random.permutation(100)[:17]
    assert (own.scores(np.repeat(query, 17, axis=0), vectors[some]) == together[some]).all()
    assert [own.scores(query, vectors[row : row + 1])[0] for row in range(100)] == together.tolist()


def test_scores_are_those_of_the_contract() -> None:
    query, vector = np.array([[0.6, 0.8, 0, 0]], np.float32), np.array([[1, 0, 0, 0]], np.float32)
    assert space(Metric.COSINE).scores(query, vector) == pytest.approx([0.6])
    assert space(Metric.INNER_PRODUCT).scores(query, 5 * vector) == pytest.approx([3.0])
    assert space(Metric.L2).scores(query, vector) == pytest.approx([-0.8])
    assert str(space(Metric.L2).scores(query, query)[0]) == "0.0"
    assert space(Metric.COSINE).scores(query * 1.001, query)[0] == 1.0
