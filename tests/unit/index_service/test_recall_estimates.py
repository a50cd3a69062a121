"""What is concluded from samples of recall."""

import math
import time

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from index_service.index_config import Modality
from index_service.metrics import IndexMetrics
from index_service.recall_estimates import LEAST_SAMPLES, WINDOW_SAMPLES, RecallEstimates, wilson_interval
from index_service.recipes import Recipe

LABELS = {"collection": "pets", "modality": "text", "recipe": "fastscan"}


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def estimates(registry: CollectorRegistry) -> RecallEstimates:
    return RecallEstimates("pets", IndexMetrics(registry))


def add(estimates: RecallEstimates, *recalls: float, generation: int = 0, modality: Modality = Modality.TEXT) -> None:
    for recall in recalls:
        estimates.add(generation, modality, Recipe.FASTSCAN, recall)


@pytest.mark.parametrize(
    ("mean", "count", "lower", "upper"),
    # By hand: the roots of (p - mean)^2 = 1.96^2 p (1 - p) / count.
    [(0.9, 10, 0.596, 0.982), (1.0, 100, 0.963, 1.0), (0.0, 100, 0.0, 0.037), (0.5, 1, 0.055, 0.945)],
)
def test_the_interval_is_wilsons(mean: float, count: int, lower: float, upper: float) -> None:
    assert wilson_interval(mean, count) == pytest.approx((lower, upper), abs=0.0006)


def test_the_interval_holds_the_true_mean_at_least_as_often_as_it_says() -> None:
    random = np.random.default_rng(4)
    for true in (0.5, 0.9, 0.98):
        means = (random.binomial(10, true, (2_000, 200)) / 10).mean(axis=1)
        held = [lower <= true <= upper for lower, upper in (wilson_interval(float(mean), 200) for mean in means)]
        assert np.mean(held) > 0.95


def test_estimates_are_kept_by_modality_over_the_newest_samples(
    estimates: RecallEstimates, registry: CollectorRegistry
) -> None:
    began = time.time_ns()
    add(estimates, *[0.0] * 10, *[1.0] * (WINDOW_SAMPLES - 1), 0.5)
    add(estimates, 0.25, 0.75, modality=Modality.IMAGE)
    image, text = estimates.all()
    assert (image.modality, image.recipe, image.mean, image.sample_count) == (
        Modality.IMAGE,
        Recipe.FASTSCAN,
        0.5,
        2,
    )
    assert (text.modality, text.sample_count) == (Modality.TEXT, WINDOW_SAMPLES)
    assert math.isclose(text.mean, 1 - 0.5 / WINDOW_SAMPLES)
    assert 0 < text.lower < text.mean < text.upper <= 1
    assert began <= text.since_ns <= image.since_ns <= time.time_ns()
    assert registry.get_sample_value("eyebright_index_probe_recall_count", LABELS) == WINDOW_SAMPLES + 10
    assert registry.get_sample_value("eyebright_index_probe_recall_bucket", LABELS | {"le": "0.999"}) == 11


def test_an_answer_states_an_estimate_from_enough_samples_on(estimates: RecallEstimates) -> None:
    add(estimates, *[0.9] * (LEAST_SAMPLES - 1))
    assert estimates.expected(Modality.TEXT, Recipe.FASTSCAN) is None
    add(estimates, 0.9)
    assert estimates.expected(Modality.TEXT, Recipe.FASTSCAN) == pytest.approx(0.9)
    assert estimates.expected(Modality.IMAGE, Recipe.FASTSCAN) is None


def test_what_was_answered_before_all_was_forgotten_is_passed_over(
    estimates: RecallEstimates, registry: CollectorRegistry
) -> None:
    add(estimates, 1.0, 1.0)
    before = estimates.generation
    estimates.forget()
    assert not estimates.all()
    add(estimates, 1.0, generation=before)
    assert not estimates.all()
    add(estimates, 0.5, generation=estimates.generation)
    assert [(one.mean, one.sample_count) for one in estimates.all()] == [(0.5, 1)]
    assert registry.get_sample_value("eyebright_index_probe_recall_count", LABELS) == 3


def test_a_closed_collection_leaves_no_labels_behind(estimates: RecallEstimates, registry: CollectorRegistry) -> None:
    add(estimates, 1.0)
    add(estimates, 1.0, modality=Modality.IMAGE)
    estimates.close()
    add(estimates, 1.0, generation=estimates.generation)
    assert not estimates.all()
    labels = [sample.labels for family in registry.collect() for sample in family.samples]
    assert not [one for one in labels if one.get("collection") == "pets"]
