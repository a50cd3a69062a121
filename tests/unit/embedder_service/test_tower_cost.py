"""What passes are expected to take."""

import pytest

from embedder_service.tower_cost import _PASSES_BEFORE_GROWTH, TowerCost


def test_sizes_between_measured_ones_lie_on_a_straight_line_and_beyond_them_in_proportion() -> None:
    cost = TowerCost(16, {2: 3.0, 8: 6.0})
    assert [cost.seconds(size) for size in (0, 1, 2, 4, 8, 16)] == [0, 1.5, 3, 4, 6, 12]


def test_clearing_takes_full_passes_and_one_for_the_rest() -> None:
    cost = TowerCost(8, {1: 1.0, 8: 4.0})
    assert cost.clearing_seconds(0) == 0
    assert cost.clearing_seconds(8) == 4
    assert cost.clearing_seconds(17) == 9


@pytest.mark.parametrize(("seconds", "size"), [(0.5, 0), (1.0, 1), (2.0, 2), (7.9, 7), (100.0, 8)])
def test_the_largest_batch_within_a_time(seconds: float, size: int) -> None:
    assert TowerCost(8, {1: 1.0}).size_within(seconds) == size


def test_where_size_costs_nothing_the_limit_is_within_any_time() -> None:
    assert TowerCost(8, {1: 1.0, 8: 1.0}).size_within(1.0) == 8


def test_nothing_is_expected_before_the_first_pass() -> None:
    cost = TowerCost(8)
    assert cost.clearing_seconds(100) == 0
    cost.observe(4, 2.0)
    assert (cost.seconds(4), cost.seconds(2)) == (2, 1)


def test_the_level_follows_what_passes_take() -> None:
    cost = TowerCost(8, {1: 1.0, 8: 2.0})
    for _ in range(100):
        cost.observe(8, 6.0)
    assert cost.seconds(8) == pytest.approx(6, rel=1e-3)
    assert cost.seconds(1) == pytest.approx(3, rel=1e-3)


def test_one_pass_that_was_held_up_changes_little() -> None:
    cost = TowerCost(8, {1: 1.0})
    cost.observe(1, 1_000_000.0)
    assert 1 < cost.seconds(1) < 1.2
    cost.observe(1, 0.0)
    assert 1 < cost.seconds(1) < 1.2


def test_shrinking_halves_and_stops_at_one() -> None:
    cost = TowerCost(16)
    limits = []
    for failed in (12, 6, 3, 1, 1):
        cost.shrink(failed)
        limits.append(cost.batch_limit)
    assert limits == [6, 3, 1, 1, 1]


def test_a_lowered_limit_doubles_after_enough_full_passes_up_to_where_it_was() -> None:
    cost = TowerCost(12, {1: 1.0})
    cost.shrink(12)
    cost.shrink(6)
    for limit in (3, 6, 12):
        for _ in range(_PASSES_BEFORE_GROWTH):
            assert cost.batch_limit == limit
            cost.observe(limit, 1.0)
    for _ in range(2 * _PASSES_BEFORE_GROWTH):
        cost.observe(12, 1.0)
    assert cost.batch_limit == 12


def test_passes_that_had_room_and_those_before_the_last_failure_do_not_count() -> None:
    cost = TowerCost(16, {1: 1.0})
    cost.shrink(16)
    for _ in range(_PASSES_BEFORE_GROWTH - 1):
        cost.observe(8, 1.0)
        cost.observe(7, 1.0)
    cost.shrink(8)
    cost.observe(4, 1.0)
    assert cost.batch_limit == 4


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        TowerCost(0)
