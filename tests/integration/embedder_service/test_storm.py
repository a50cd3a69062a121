"""A storm of hostile pictures mixed with good ones: each good one is right, each bad one is refused by name, and the
process neither ends nor grows. EYEBRIGHT_STORM_SEED repeats one.
"""

import os
import random
import sys
from pathlib import Path

import pytest

from tests.integration.embedder_service.hostile_images import bad_pictures, good_pictures
from tests.integration.embedder_service.weather import MOST_GROWTH_BYTES, weather
from tests.processes import running_service


@pytest.mark.parametrize("count", [300, pytest.param(2_000, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_a_storm_harms_nobody_but_itself(tmp_path: Path, count: int) -> None:
    seed = int(os.environ.get("EYEBRIGHT_STORM_SEED") or random.randrange(2**32))
    sys.stdout.write(f"EYEBRIGHT_STORM_SEED={seed}\n")
    with running_service("embedder_service", tmp_path) as service:
        outcome = weather(service.address, service.process.pid, seed, count)
        assert service.process.poll() is None
    sys.stdout.write(f"{outcome}\n")
    assert outcome.wrong == []
    assert outcome.embedded + outcome.refused == count
    assert outcome.grown_bytes < MOST_GROWTH_BYTES


def test_pictures_of_the_storm_have_names_of_their_own() -> None:
    names = [picture.name for picture in (*good_pictures(), *bad_pictures())]
    assert len(set(names)) == len(names) > 80
