"""``python -m embedder_service check`` and ``golden``: on checkpoints of both families, whole ones and damaged ones."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedder_service.command import main
from tests.unit.embedder_service.checkpoints import write_checkpoint

CHECKS = ["layout", "token ids", "pixels", "text vectors", "image vectors", "golden vectors"]


def checked(output: str) -> dict[str, tuple[str, str]]:
    """{check: (outcome, what was said)} of the lines printed."""
    lines = [line for line in output.splitlines() if not line.startswith(" ")]
    return {line[8:24].strip(): (line[:8].strip(), line[24:]) for line in lines}


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text("utf-8"))
    edit(content)
    path.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_a_checkpoint_of_either_family_passes_and_gets_its_golden_vectors(
    tmp_path: Path, family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_checkpoint(tmp_path, family)
    assert main(["check", "--model", str(folder)]) == 0
    output = capsys.readouterr().out
    outcomes = checked(output)
    assert {check: outcome for check, (outcome, _) in outcomes.items()} == dict.fromkeys(CHECKS[:-1], "ok") | {
        "golden vectors": "skipped"
    }
    pad = 0 if family == "siglip2" else 1
    assert outcomes["layout"][1] == f"16 tokens, EOS 1 kept, padded with {pad}, with punctuation"
    assert "no golden.json beside the weights" in outcomes["golden vectors"][1]
    assert main(["golden", "--model", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'golden.json'}\n"
    fingerprint = json.loads((folder / "golden.json").read_text("utf-8"))["fingerprint"]
    assert f"fingerprint     {fingerprint}\n" in output
    assert main(["check", "--model", str(folder)]) == 0
    assert checked(capsys.readouterr().out)["golden vectors"][1].startswith("17 vectors, least cosine")


def test_each_check_fails_when_it_should(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path, "siglip")
    main(["golden", "--model", str(folder)])
    change(folder / "tokenizer_config.json", lambda config: config.update(padding_side="left"))
    crop = {"do_center_crop": True, "crop_size": {"height": 16, "width": 16}}
    change(folder / "preprocessor_config.json", lambda config: config.update(crop))

    def turn(golden: dict[str, Any]) -> None:
        vector = -np.frombuffer(base64.b64decode(golden["captions"][3]["vector"]), "<f4")
        golden["captions"][3]["vector"] = base64.b64encode(vector.tobytes()).decode()

    change(folder / "golden.json", turn)
    assert main(["check", "--model", str(folder)]) == 1
    outcomes = checked(capsys.readouterr().out.partition("\n")[2])
    assert {check: outcome for check, (outcome, _) in outcomes.items()} == {"layout": "ok"} | dict.fromkeys(
        CHECKS[1:], "FAILED"
    )
    assert "'a red heart': token 0 is " in outcomes["token ids"][1]
    assert outcomes["token ids"][1].endswith(", transformers' 1")
    assert "ours have shape (3, 3, 32, 32), transformers' (3, 3, 16, 16)" in outcomes["pixels"][1]
    assert "least cosine to the golden ones -1.0" in outcomes["golden vectors"][1]


def test_golden_vectors_of_another_checkpoint_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = (write_checkpoint(tmp_path / str(seed), "siglip", seed) for seed in (1, 2))
    assert main(["golden", "--model", str(one), "--output", str(other / "golden.json")]) == 0
    assert main(["check", "--model", str(other)]) == 1
    outcome, said = checked(capsys.readouterr().out.partition("\n")[2])["golden vectors"]
    assert outcome == "FAILED"
    assert "is of fingerprint" in said


def test_what_transformers_cannot_read_fails_its_own_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_checkpoint(tmp_path, "siglip2")
    change(folder / "tokenizer_config.json", lambda config: config.update(added_tokens_decoder="none"))
    assert main(["check", "--model", str(folder)]) == 1
    outcomes = checked(capsys.readouterr().out)
    assert {check for check, (outcome, _) in outcomes.items() if outcome == "FAILED"} == {"token ids", "text vectors"}
    assert "AttributeError: 'str' object" in outcomes["token ids"][1]


@pytest.mark.parametrize("command", ["check", "golden"])
def test_help_and_wrong_options(command: str) -> None:
    start = [sys.executable, "-m", "embedder_service", command]
    shown = subprocess.run([*start, "--help"], capture_output=True, text=True, check=True)
    assert f"python -m embedder_service {command} --model" in shown.stdout
    refused = subprocess.run([*start, "--model", "/no/such/folder"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "neither 'demo', nor a folder" in refused.stderr
    assert refused.stderr.count("\n") == 1
