import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from index_service.ranking import best_first


@settings(max_examples=50, deadline=None)
@given(
    hits=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0, -2.0]), st.text("aZé\uffff🐞", max_size=3)), max_size=40),
    limit=st.integers(1, 45),
)
def test_it_is_the_order_of_a_plain_sort(hits: list[tuple[float, str]], limit: int) -> None:
    scores = np.array([score for score, _ in hits], np.float32)
    ids = np.empty(len(hits), object)
    ids[:] = [own for _, own in hits]
    expected = sorted(hits, key=lambda hit: (-hit[0], hit[1].encode()))[:limit]
    assert [hits[place] for place in best_first(scores, ids.__getitem__, limit)] == expected


def test_a_hundred_thousand_equal_scores_are_ordered_by_id() -> None:
    ids = np.array([f"{number:06d}" for number in np.random.default_rng(0).permutation(100_000)], object)
    order = best_first(np.zeros(100_000, np.float32), ids.__getitem__, 5)
    assert ids[order].tolist() == ["000000", "000001", "000002", "000003", "000004"]
