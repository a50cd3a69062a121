from pathlib import Path

import pytest
from eyebright_cli.app import app
from typer.testing import CliRunner

COMMANDS = ["demo", "serve", "index", "search", "like", "delete", "stats", "tune", "doctor"]
CONNECTED = ["index", "search", "like", "delete", "stats"]
runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "FORCE_COLOR": None})


def test_help_lists_the_commands_and_how_to_begin() -> None:
    result = runner.invoke(app, ["--help"])
    assert result.exit_code == 0
    for command in COMMANDS:
        assert f" {command} " in result.output
    assert "eyebright serve" in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_has_an_example_that_parses(command: str) -> None:
    result = runner.invoke(app, [command, "-h"])
    assert result.exit_code == 0
    examples = [line.strip(" │") for line in result.output.splitlines() if line.strip(" │").startswith("eyebright ")]
    assert any(example.startswith(f"eyebright {command}") for example in examples), result.output


@pytest.mark.parametrize("command", ["create", "restore"])
def test_help_of_snapshot_commands_has_examples_and_the_connection(command: str) -> None:
    output = runner.invoke(app, ["snapshot", command, "--help"]).output
    assert f"eyebright snapshot {command} " in output
    for option in ("--index", "--token-file", "--tls-ca", "--tls-identity", "--json"):
        assert option in output


@pytest.mark.parametrize("command", CONNECTED)
def test_commands_that_connect_take_the_same_options(command: str) -> None:
    output = runner.invoke(app, [command, "--help"]).output
    for option in ("--collection", "--embedder", "--index", "--token-file", "--tls-ca", "--tls-identity", "--json"):
        assert option in output
    for variable in ("EYEBRIGHT_EMBEDDER", "EYEBRIGHT_INDEX", "EYEBRIGHT_TOKEN_FILE"):
        assert variable in output


@pytest.mark.parametrize(
    "arguments",
    [
        ["search"],
        ["search", "words", "--image", __file__],
        ["search", "--image", "/missing.png"],
        ["search", "words", "-k", "0"],
        ["search", "words", "-k", "100001"],
        ["search", "words", "--token-file", "/missing"],
        ["search", "words", "--tls-identity", __file__, __file__],
        ["search", "words", "--tls-ca", __file__, "--tls-identity", __file__],
        ["like"],
        ["delete"],
        ["index"],
        ["index", ".", "--shards", "0"],
        ["serve", "--index-port", "65536"],
        ["snapshot", "create", "images"],
        ["tune"],
        ["doctor", "--collection", "images"],
        ["doctor", "--golden", "/missing"],
        ["tune", "images", "--target-recall", "1.5"],
        ["tune", "images", "--memory-limit", "much"],
        ["snapshot", "restore"],
        ["nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_use_exits_with_2(arguments: list[str]) -> None:
    assert runner.invoke(app, arguments).exit_code == 2


def test_version() -> None:
    result = runner.invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("eyebright ")


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("--token-file", b"\n", "{file} holds no token"),
        ("--token-file", b"two\nlines", "token: expected printable ASCII on one line"),
        ("--token-file", b"\xff\xfe", "token: expected printable ASCII on one line"),
        ("--tls-ca", b"words", "{file} holds no certificate in PEM form"),
        ("--tls-ca", b"-----BEGIN PRIVATE KEY-----", "{file} holds no certificate in PEM form"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(option: str, content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    result = runner.invoke(app, ["stats", option, str(file), "--index", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert str(result.exception).startswith(message.format(file=file))
