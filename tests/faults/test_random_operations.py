"""Seeded random operations, restarts, crashes and snapshots among them, against a model in memory.

EYEBRIGHT_OPERATIONS_SEED repeats a run.
"""

import os
import random
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from index_service.search import SearchOptions
from index_service.vector_space import Metric
from tests.faults.world import DIGITS, EFFORTS, RECIPES, SHARDS, World

SOME_IDS = st.lists(st.integers(0, 40).map("{:04d}".format), min_size=1, max_size=10, unique=True)


def run(folder: Path, operations: int) -> None:
    seed = int(os.environ.get("EYEBRIGHT_OPERATIONS_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_OPERATIONS_SEED={seed}\n")
    metric = list(Metric)[seed % len(Metric)]
    with closing(World(folder, metric, seed)) as world:
        # Enough for indexes that propose from the start.
        for first in range(0, 4_000, 500):
            world.upsert([f"{number:04d}" for number in range(first, first + 500)])
        for number in range(operations):
            try:
                world.do_something()
                if number % 500 == 499:
                    world.check()
            except BaseException:
                sys.stdout.write(f"failed in operation {number}, metric {metric.value}\n")
                raise
        world.check()
        world.restart()
        world.check()
        sys.stdout.write(f"{operations} operations, {world.approximate} answers through an index\n")
        assert world.approximate > operations / 50


def test_2_000_random_operations_agree_with_the_model(tmp_path: Path) -> None:
    run(tmp_path, 2_000)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_50_000_random_operations_agree_with_the_model(tmp_path: Path) -> None:
    run(tmp_path, 50_000)


class Operations(RuleBasedStateMachine):
    """The same, with operations that hypothesis chooses, and makes fewer of when they fail."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.world = World(Path(self.folder.name), Metric.COSINE, 1)

    def teardown(self) -> None:
        self.world.close()
        self.folder.cleanup()

    @rule(ids=SOME_IDS)
    def upsert(self, ids: list[str]) -> None:
        self.world.upsert(ids)

    @rule(first=st.integers(0, 5))
    def upsert_many(self, first: int) -> None:
        self.world.upsert([f"{number:04d}" for number in range(first * 100, first * 100 + 600)])

    @rule(ids=SOME_IDS)
    def update(self, ids: list[str]) -> None:
        self.world.update(ids)

    @rule(ids=SOME_IDS)
    def delete(self, ids: list[str]) -> None:
        self.world.delete(ids)

    @rule(digit=st.integers(0, DIGITS - 1), at_least=st.integers(0, 900).map("{:04d}".format))
    def delete_matching(self, digit: int, at_least: str) -> None:
        self.world.delete_matching(digit, at_least)

    @rule(
        k=st.integers(1, 50), exact=st.booleans(), digit=st.none() | st.integers(0, DIGITS - 1), negated=st.booleans()
    )
    def search(self, k: int, digit: int | None, *, exact: bool, negated: bool) -> None:
        self.world.search(SearchOptions(k, exact=exact), digit, negated=negated)

    @rule(ids=SOME_IDS, k=st.integers(1, 20))
    def search_record(self, ids: list[str], k: int) -> None:
        self.world.search_record(ids[0], k)

    @rule(ids=SOME_IDS)
    def get(self, ids: list[str]) -> None:
        self.world.get(ids)

    @rule(shard=st.integers(0, SHARDS - 1), idle=st.booleans())
    def compact(self, shard: int, *, idle: bool) -> None:
        self.world.compact(shard, idle=idle)

    @rule(build=st.sampled_from(RECIPES), effort=st.sampled_from(EFFORTS))
    def configure(self, build: object, effort: object) -> None:
        self.world.configure(build, effort)  # type: ignore[arg-type]

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule()
    def crash(self) -> None:
        self.world.crash()

    @precondition(lambda self: self.world.known)
    @rule()
    def replace_by_a_snapshot(self) -> None:
        self.world.replace_by_a_snapshot()

    @invariant()
    def counts_agree(self) -> None:
        assert len(self.world.collection) == len(self.world.known)


def run_machine(examples: int, steps: int) -> None:
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
        database=None,
    )
    run_state_machine_as_test(Operations, settings=limits)


def test_operations_that_hypothesis_chooses_agree_with_the_model() -> None:
    run_machine(8, 20)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_many_operations_that_hypothesis_chooses_agree_with_the_model() -> None:
    run_machine(300, 60)
