"""The choices of a collection: which holds, what a target recall needs, and that they outlive a restart."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from index_service.index_config import (
    CONFIG_FILE,
    Basis,
    Goal,
    IndexConfig,
    Measured,
    Modality,
    Recall,
    Tuning,
    read_config,
    write_config,
)
from index_service.recipes import FASTSCAN, Build, Effort, Recipe

CENTRED = Build(Recipe.IVF_FASTSCAN, centred=True)


def point(k_factor: float, recall: float, build: Build = FASTSCAN) -> Measured:
    means = {"TEXT": recall, "IMAGE": min(1.0, recall + 0.004)}
    recalls = {name: Recall(mean, mean - 0.00196, mean + 0.001, 256) for name, mean in means.items()}
    return Measured(build, Effort(k_factor), recalls, 1e-5 * k_factor, 8_000)


FRONT = (point(50, 0.95), point(60, 0.999, CENTRED), point(100, 0.97), point(200, 0.99), point(400, 0.995))
TUNED = IndexConfig(tuning=Tuning(Goal(0.96, 20, 1_000_000), Basis.MEASURED, FRONT[2], FRONT, True, 17))


def test_what_was_found_holds_until_the_owner_chooses() -> None:
    assert IndexConfig().build_in_force == FASTSCAN
    assert (TUNED.build_in_force, TUNED.effort_in_force) == (FASTSCAN, Effort(100))
    assert TUNED.chosen(None, Effort(7)).effort_in_force == Effort(7)
    other = TUNED.chosen(CENTRED, None)
    assert (other.build_in_force, other.effort_in_force) == (CENTRED, Effort()), "what was found is of another build"


@pytest.mark.parametrize(
    ("target", "modality", "k_factor"),
    [
        (0.94, Modality.TEXT, 50),
        (0.95, Modality.TEXT, 100),  # as measured, but not by a standard error more
        (0.95, Modality.IMAGE, 50),
        (0.968, Modality.TEXT, 100),
        (0.9925, Modality.TEXT, 400),
        (0.9925, Modality.RECORD, 400),
        (0.998, Modality.TEXT, None),
        (1.0, Modality.TEXT, None),
    ],
)
def test_a_target_recall_takes_the_least_effort_that_reaches_it(
    target: float, modality: Modality, k_factor: float | None
) -> None:
    found = TUNED.effort_for(target, modality)
    assert (found and found.k_factor) == k_factor


def test_recall_is_known_of_what_was_measured_alone() -> None:
    assert TUNED.recall_of(Effort(200), Modality.TEXT) == 0.99
    assert TUNED.recall_of(Effort(200), Modality.RECORD) is None
    assert TUNED.recall_of(Effort(201), Modality.TEXT) is None
    assert TUNED.recall_of(Effort(60), Modality.TEXT) is None, "it was measured of another build"


def test_without_measurements_the_default_is_trusted_up_to_99_percent() -> None:
    few = Tuning(Goal(), Basis.FEW_QUERIES, Measured(FASTSCAN, Effort(), {}, None, None), (), False, 1)
    for config in (IndexConfig(), IndexConfig(tuning=few)):
        assert config.effort_for(0.99, Modality.TEXT) == Effort()
        assert config.effort_for(0.991, Modality.TEXT) is None
        assert config.recall_of(Effort(), Modality.TEXT) is None


def test_a_tuning_takes_the_place_of_an_earlier_effort_but_not_of_a_later_one() -> None:
    assert TUNED.tuning is not None
    began = IndexConfig(effort=Effort(1))
    assert began.tuned(TUNED.tuning, since=began).effort_in_force == Effort(100)
    assert began.chosen(None, Effort(3)).tuned(TUNED.tuning, since=began).effort_in_force == Effort(3)


def test_few_queries_don_t_put_a_target_out_of_reach() -> None:
    few = Recall(0.9995, 0.98, 1.0, 100)
    assert few.reaches(0.999)
    assert not replace(few, mean=0.9994).reaches(0.999)
    assert not Recall(0.0, 0.0, 1.0, 0).reaches(0.5)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_config(tmp_path) == IndexConfig()
    config = TUNED.chosen(CENTRED, Effort(3.5, 0.25, 17))
    write_config(tmp_path, config)
    assert read_config(tmp_path) == config
    described = json.loads((tmp_path / CONFIG_FILE).read_text("utf-8"))
    described["tuning"]["chosen"]["build"]["recipe"] = "nonsense"
    (tmp_path / CONFIG_FILE).write_text(json.dumps(described), "utf-8")
    assert read_config(tmp_path) == IndexConfig()
