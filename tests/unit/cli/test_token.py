"""``eyebright token new``: a token that is shown once, and a line that the services understand."""

import hashlib
import json
import stat
from pathlib import Path

import pytest
from eyebright_cli.app import app
from typer.testing import CliRunner

from service_runtime.access import Grant, Scope
from service_runtime.tokens import Tokens

runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None})
NEW = ["token", "new", "--name", "shop", "--scope", "write", "--collection", "photos", "--collection", "drafts-*"]


def test_a_service_takes_the_token_by_its_line(tmp_path: Path) -> None:
    result = runner.invoke(app, NEW)
    assert result.exit_code == 0
    token = result.stderr.split()[-1]
    assert token not in result.stdout
    (tmp_path / "tokens").write_text(result.stdout)
    granted = Tokens(tmp_path / "tokens").grant(f"Bearer {token}")
    assert granted == Grant("shop", Scope.WRITE, ("photos", "drafts-*"))
    assert token != runner.invoke(app, NEW).stderr.split()[-1]
    assert len(token) >= 43  # 256 bits, six a character


def test_json(tmp_path: Path) -> None:
    made = json.loads(runner.invoke(app, [*NEW, "--json"]).stdout)
    digest = hashlib.sha256(made["token"].encode()).hexdigest()
    assert made["line"] == f"shop write photos,drafts-* sha256:{digest}"
    hidden = json.loads(runner.invoke(app, [*NEW, "--json", "--out", str(tmp_path / "token")]).stdout)
    assert hidden["token"] is None


def test_into_a_file_of_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "token"
    result = runner.invoke(app, [*NEW, "--out", str(file)])
    token = file.read_text().strip()
    assert token not in result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert hashlib.sha256(token.encode()).hexdigest() in result.stdout
    again = runner.invoke(app, [*NEW, "--out", str(file)])
    assert again.exit_code == 1
    assert str(again.exception) == f"can't write {file}: File exists"
    assert file.read_text().strip() == token


@pytest.mark.parametrize(
    ("option", "value"),
    [("--name", "two words"), ("--name", ""), ("--collection", "a,b"), ("--collection", "*x"), ("--scope", "owner")],
)
def test_what_no_line_can_hold_is_refused(option: str, value: str) -> None:
    result = runner.invoke(app, [*NEW, option, value])
    assert result.exit_code == 2
    assert option in result.output
