"""``eyebright doctor``: on the real services, and on embedders that make one mistake each."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from eyebright_cli.doctor.embedder_checks import EMBEDDER_CHECKS
from eyebright_client import Client

from tests.e2e.commands import eyebright_here
from tests.integration.cli.toy_embedder import toy_embedder
from tests.processes import RunningService

TEXT = {check.name for check in EMBEDDER_CHECKS if check.tower == "text"}
IMAGE = {check.name for check in EMBEDDER_CHECKS if check.tower == "image"}
BOTH_GOLDEN = {"captions: golden vectors", "pictures: golden vectors"}
BOTH_BAD = {"captions: a bad one", "pictures: a bad one"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Golden vectors of the toy embedder without a mistake."""
    path = tmp_path_factory.mktemp("golden") / "golden.json"
    with toy_embedder() as address:
        answer = eyebright_here("doctor", "--embedder", address, "--record", str(path))
        assert answer.code == 0, answer.out
    return path


def examined(*arguments: str) -> tuple[int, dict[str, Any]]:
    """(exit code, {check: finding})."""
    answer = eyebright_here("doctor", "--json", *arguments)
    return answer.code, {finding["check"]: finding for finding in answer.json["checks"]}


def failed(findings: dict[str, Any]) -> set[str]:
    return {name for name, finding in findings.items() if finding["outcome"] == "failed"}


def test_the_real_services_are_well(embedder: RunningService, index: RunningService) -> None:
    with Client(embedder.address, index.address, collection="doctor") as client:
        client.create_collection()
    try:
        code, findings = examined("--embedder", embedder.address, "--index", index.address, "--collection", "doctor")
        assert failed(findings) == set()
        assert {finding["outcome"] for finding in findings.values()} == {"ok"}
        assert code == 0
        assert set(findings) == {check.name for check in EMBEDDER_CHECKS} | {"index: health", "index: collections"}
    finally:
        with Client(None, index.address, collection="doctor") as client:
            client.delete_collection()


def test_a_collection_of_another_embedder_is_told(embedder: RunningService, index: RunningService) -> None:
    with Client(None, index.address, collection="elsewhere") as client:
        client.create_collection(dimension=8, fingerprint="0" * 64)
        arguments = ("--embedder", embedder.address, "--index", index.address)
        code, findings = examined(*arguments)
        client.delete_collection()
        assert code == 1
        assert failed(findings) == {"index: collections"}
        assert f"elsewhere has 8 dimensions of {'0' * 64}" in findings["index: collections"]["said"]
        code, findings = examined(*arguments, "--collection", "no-such-collection")
        assert (code, failed(findings)) == (1, {"index: collections"})


def test_a_toy_without_a_mistake_is_well(recorded: Path) -> None:
    with toy_embedder() as address:
        code, findings = examined("--embedder", address, "--golden", str(recorded))
        assert (code, failed(findings)) == (0, set())
        _, findings = examined("--embedder", address)
        assert {name for name, finding in findings.items() if finding["outcome"] == "skipped"} == BOTH_GOLDEN


@pytest.mark.parametrize(
    ("mistake", "expected"),
    [
        ("not serving", {"health"}),
        ("no fingerprint", {"model stated"}),
        ("another dimension", {"model stated"}),
        ("another fingerprint", {"model stated"}),
        ("other weights", BOTH_GOLDEN),
        ("not of length 1", {"unit length"}),
        ("one vector for all", {"captions: distinct", "pictures: distinct"}),
        ("dropout", {"captions: repeated", "pictures: repeated"}),
        ("statistics of the batch", {"captions: among others", "pictures: among others"}),
        ("another order", {"captions: among others", "pictures: among others"}),
        ("pads to the longest", {"captions: padding", "captions: among others"}),
        ("keeps case", {"captions: spelling"}),
        ("keeps white space", {"captions: spelling"}),
        ("flags nothing", {"captions: too long"}),
        ("cuts at the beginning", {"captions: too long"}),
        ("fails whole requests", BOTH_BAD),
        ("embeds everything", BOTH_BAD),
        ("blames itself", BOTH_BAD),
        ("ignores EXIF", {"pictures: orientation", "pictures: golden vectors"}),
        ("drops alpha", {"pictures: transparency", "pictures: golden vectors"}),
        ("swaps channels of WebP", {"pictures: container"}),
    ],
)
def test_each_mistake_fails_the_check_that_is_for_it(recorded: Path, mistake: str, expected: set[str]) -> None:
    with toy_embedder(mistake) as address:
        code, findings = examined("--embedder", address, "--golden", str(recorded))
    assert code == 1
    assert expected <= failed(findings), findings
    assert all(findings[name]["meaning"] for name in failed(findings))


def test_every_check_is_shown_to_fail() -> None:
    marks: Any = test_each_mistake_fails_the_check_that_is_for_it.pytestmark  # type: ignore[attr-defined]
    shown = {name for _, expected in marks[0].args[1] for name in expected}
    assert shown == {check.name for check in EMBEDDER_CHECKS}


def test_a_single_mistake_leaves_the_other_checks_alone(recorded: Path) -> None:
    for mistake, alone in (
        ("swaps channels of WebP", {"pictures: container"}),
        ("flags nothing", {"captions: too long"}),
    ):
        with toy_embedder(mistake) as address:
            _, findings = examined("--embedder", address, "--golden", str(recorded))
        assert failed(findings) == alone


def test_a_tower_that_is_not_loaded_is_not_judged() -> None:
    with toy_embedder("no image tower") as address:
        code, findings = examined("--embedder", address)
    assert code == 0
    assert {name for name, finding in findings.items() if finding["outcome"] == "skipped"} >= IMAGE
    assert {findings[name]["outcome"] for name in TEXT - BOTH_GOLDEN} == {"ok"}


def test_golden_vectors_of_another_space_fail(embedder: RunningService, recorded: Path) -> None:
    code, findings = examined("--embedder", embedder.address, "--golden", str(recorded))
    assert (code, failed(findings)) == (1, BOTH_GOLDEN)
    assert "another vector space" in findings["captions: golden vectors"]["said"]


def test_nothing_that_is_ill_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    with toy_embedder("keeps case") as address:
        answer = eyebright_here("doctor", "--embedder", address, "--record", str(path))
    assert answer.code == 1
    assert "is not written: a check failed" in answer.err
    assert not path.exists()


def test_what_is_recorded_can_be_read_by_the_embedder_too(recorded: Path) -> None:
    golden = json.loads(recorded.read_text("utf-8"))
    assert (golden["format"], golden["fingerprint"]) == (1, "ab" * 32)
    assert golden["captions"][0]["text"] == "a red heart"
    assert len(golden["captions"]) == 12
    assert len(golden["pictures"]) == 5


def test_people_read_what_a_failure_means() -> None:
    with toy_embedder("pads to the longest") as address:
        answer = eyebright_here("doctor", "--embedder", address)
    assert answer.code == 1
    assert re.search(r"^FAILED +captions: padding +least cosine", answer.out, re.MULTILINE)
    assert "captions: padding: Captions are padded to the longest of their batch" in answer.out
    assert "failed" in answer.out.splitlines()[-1]


def test_an_embedder_that_cannot_be_reached() -> None:
    code, findings = examined("--embedder", "127.0.0.1:1")
    assert (code, failed(findings)) == (1, {"reachable"})
    assert findings["reachable"]["meaning"].startswith("Nothing listens there")


def test_what_is_no_golden_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    for content, message in (("[]", "holds no golden vectors"), ('{"format": 2}', "expected format 1, not 2")):
        path.write_text(content, "utf-8")
        answer = eyebright_here("doctor", "--embedder", "127.0.0.1:1", "--golden", str(path))
        assert answer.code == 1
        assert message in answer.err
