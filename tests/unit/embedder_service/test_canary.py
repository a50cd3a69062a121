"""The canary, on a backend that waits to be let go on."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from embedder_service import canary as canary_module
from embedder_service.backends import Tower
from embedder_service.batcher import Batcher
from embedder_service.canary import Canary, Case
from embedder_service.items import Priority
from embedder_service.metrics import EmbedderMetrics
from embedder_service.tower_cost import TowerCost
from service_runtime.lifecycle import Lifecycle
from tests.unit.embedder_service.gated import BROKEN, NOT_A_NUMBER, Call, GatedBackend

LEAST = 0.999


class Cage:
    """A canary of both towers over a gated backend; the text tower's row is ``text``."""

    def __init__(self, text: float = 0.5, pass_seconds: float = 60.0, late_seconds: float = 0.0) -> None:
        self.registry = CollectorRegistry()
        self.backend = GatedBackend()
        metrics = EmbedderMetrics(self.registry)
        costs = {tower: TowerCost(4, {1: pass_seconds}) for tower in Tower}
        self.batcher = Batcher(self.backend, costs, 0.2, metrics)
        self.lifecycle = Lifecycle("test", lambda: "", 60)
        self.lifecycle.open()
        self.golden = {tower: np.array([np.cos(0.5), np.sin(0.5)], np.float32) for tower in Tower}
        cases = {
            Tower.TEXT: Case(np.array([text, 0.0]), self.golden[Tower.TEXT]),
            Tower.IMAGE: Case(np.array([0.5, 0.0]), self.golden[Tower.IMAGE]),
        }
        self.canary = Canary(self.batcher, cases, LEAST, late_seconds, self.lifecycle, metrics)

    def cosine(self, tower: Tower) -> float | None:
        return self.registry.get_sample_value("eyebright_embedder_canary_cosine", {"tower": tower})


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary_module, "_LOOK_SECONDS", 0.005)


@pytest.fixture
async def cages() -> AsyncIterator[list[Cage]]:
    """Those put here are opened at the end."""
    made: list[Cage] = []
    yield made
    for cage in made:
        cage.backend.permits.release(1000)
        await cage.batcher.stop()


async def test_a_canary_that_is_well_says_nothing(cages: list[Cage]) -> None:
    cages.append(cage := Cage())
    cage.backend.permits.release(2)
    assert await cage.canary.check() == ""
    assert [cage.cosine(tower) for tower in Tower] == [pytest.approx(1), pytest.approx(1)]
    assert cage.lifecycle.obstacle() == ""


@pytest.mark.parametrize(
    ("text", "cosine", "complaint"),
    [
        (0.6, np.cos(0.1), f"the canary of the text tower has cosine {np.cos(0.1):.5f}, expected at least {LEAST}"),
        (BROKEN, 0.0, "the canary of the text tower failed: internal error: the forward pass failed"),
        (
            NOT_A_NUMBER,
            0.0,
            "the canary of the text tower failed: internal error: the model gave no vector of length 1",
        ),
    ],
    ids=["another vector", "a pass that fails", "no number"],
)
async def test_a_canary_that_is_ill_says_in_which_tower(
    cages: list[Cage], text: float, cosine: float, complaint: str
) -> None:
    cages.append(cage := Cage(text))
    cage.backend.permits.release(10)
    assert await cage.canary.check() == complaint
    assert cage.cosine(Tower.TEXT) == pytest.approx(cosine)
    assert cage.cosine(Tower.IMAGE) == pytest.approx(1)


async def test_readiness_follows_the_canary(cages: list[Cage]) -> None:
    cages.append(cage := Cage())
    cage.backend.permits.release(100_000)
    checking = asyncio.create_task(cage.canary.keep_checking(0.001))
    for _ in range(2):
        cage.golden[Tower.IMAGE][:] = -cage.golden[Tower.IMAGE]  # as good as a device that computes something else
        while not cage.lifecycle.obstacle():
            await asyncio.sleep(0.001)
        assert "the canary of the image tower has cosine -1.00000" in cage.lifecycle.obstacle()
        cage.golden[Tower.IMAGE][:] = -cage.golden[Tower.IMAGE]
        while cage.lifecycle.obstacle():
            await asyncio.sleep(0.001)
    checking.cancel()


async def test_a_long_queue_is_no_ill_health(cages: list[Cage]) -> None:
    cages.append(cage := Cage())
    others = [Call(n / 100) for n in range(40)]
    for call in others:
        cage.batcher.put(call.items)
    check = asyncio.create_task(cage.canary.check())
    for _ in range(10):
        await asyncio.sleep(0.02)  # it looks a few times
        assert not check.done()
        assert cage.lifecycle.obstacle() == ""
        cage.backend.permits.release()
    cage.backend.permits.release(10)
    assert await check == ""
    assert await others[-1].angles() == [0.39]


async def test_a_device_that_finishes_no_pass_is(cages: list[Cage]) -> None:
    cages.append(cage := Cage(pass_seconds=0.001, late_seconds=0.1))
    checking = asyncio.create_task(cage.canary.keep_checking(0.001))
    while not (obstacle := cage.lifecycle.obstacle()):
        await asyncio.sleep(0.005)
    assert obstacle.endswith("s with its pass")
    while any(cage.cosine(tower) != 0 for tower in Tower):
        await asyncio.sleep(0.005)
    cage.backend.permits.release(100_000)
    while cage.lifecycle.obstacle():
        await asyncio.sleep(0.005)
    assert [cage.cosine(tower) for tower in Tower] == [pytest.approx(1)] * 2
    checking.cancel()


async def test_a_check_that_is_given_up_leaves_nothing_in_the_queue(cages: list[Cage]) -> None:
    cages.append(cage := Cage())
    cage.batcher.put(Call(0.1).items)
    await cage.backend.next_pass()
    check = asyncio.create_task(cage.canary.check())
    while not all(cage.batcher.waiting(tower, Priority.INTERACTIVE) for tower in Tower):
        await asyncio.sleep(0.001)
    check.cancel()
    with pytest.raises(asyncio.CancelledError):
        await check
    cage.backend.permits.release(10)
    call = Call(0.2)
    cage.batcher.put(call.items)
    assert await call.angles() == [0.2]
    assert await cage.backend.next_pass() == (Tower.TEXT, [0.2])
