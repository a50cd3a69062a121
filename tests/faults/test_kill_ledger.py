"""A server is killed at random moments under writers, again and again; what it acknowledged must be there."""

import os
import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.ledger import DIMENSION, NAME, Ledger
from tests.integration.index_service.calls import connected, create
from tests.processes import start_service

WRITERS = 3
IDS_PER_WRITER = 300
SHARDS = 2


def kill_at_a_random_moment(ledger: Ledger, kill: Callable[[], None]) -> None:
    """Let some writes be acknowledged, wait a little more, and kill."""
    with ledger.changed:
        goal = ledger.acknowledged + ledger.random.randint(1, 40)
        assert ledger.changed.wait_for(lambda: ledger.acknowledged >= goal, timeout=60)
    # Often in the middle of a write; now and then long enough after the start for compaction to be at work.
    time.sleep(ledger.random.uniform(0, ledger.random.choice((0.02, 0.02, 0.8))))
    kill()


def run_rounds(folder: Path, rounds: int) -> None:
    seed = int(os.environ.get("EYEBRIGHT_LEDGER_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_LEDGER_SEED={seed}\n")
    ledger = Ledger(seed, WRITERS, IDS_PER_WRITER)
    arguments = ("--data-folder", str(folder / "data"), "--log-level", "error", "--seal-rows", "256")
    for number in range(rounds + 1):
        service = start_service("index_service", folder, *arguments)
        try:
            with connected(service.address) as stub:
                if number == 0:
                    create(stub, NAME, DIMENSION, shard_count=SHARDS)
                ledger.check(stub)
            if number == rounds:
                break
            seeds = [ledger.random.randrange(2**32) for _ in range(WRITERS)]
            with ThreadPoolExecutor(WRITERS) as threads:
                writers = [
                    threads.submit(ledger.write_until_killed, service.address, writer, own_seed)
                    for writer, own_seed in enumerate(seeds)
                ]
                kill_at_a_random_moment(ledger, service.kill)
            for done in writers:
                done.result()
        finally:
            service.kill()
    assert list(folder.glob("data/collections/*/*/segments/*")), "nothing was sealed"
    assert any(entry.settled is not None for entry in ledger.entries.values())
    sys.stdout.write(f"{rounds} kills, {ledger.acknowledged} acknowledged writes\n")


@pytest.mark.timeout(300)
def test_every_acknowledged_write_survives_20_kills(tmp_path: Path) -> None:
    run_rounds(tmp_path, 20)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_every_acknowledged_write_survives_200_kills(tmp_path: Path) -> None:
    run_rounds(tmp_path, 200)
