"""Secrets come from files: nothing that a process list, a manifest or a crash report shows takes one itself."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from eyebright_cli.app import app

from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from service_runtime.settings import ServiceSettings

SECRET_WORDS = ("token", "key", "secret", "password", "credential", "identity")


def sounds_secret(name: str) -> bool:
    return any(word in name for word in SECRET_WORDS)


@pytest.mark.parametrize("settings", [IndexSettings, EmbedderSettings], ids=["index", "embedder"])
def test_settings_name_the_files_of_secrets(settings: type[ServiceSettings]) -> None:
    found = {name: field.annotation for name, field in settings.model_fields.items() if sounds_secret(name)}
    assert {"token_file", "tls_key"} <= set(found)
    for name, annotation in found.items():
        assert set(get_args(annotation)) == {Path, type(None)}, name


def functions(group: typer.Typer) -> Iterator[Callable[..., Any]]:
    """What the commands of a group, and of those within it, call."""
    yield from (command.callback for command in group.registered_commands if command.callback)
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            yield from functions(inner.typer_instance)


def test_the_command_line_names_the_files_of_secrets() -> None:
    found = {
        (name, kind)
        for function in functions(app)
        for name, kind in get_type_hints(function).items()
        if sounds_secret(name)
    }
    assert {name for name, _ in found} >= {"token_file", "tls_identity"}
    for name, kind in found:
        assert kind in (Path | None, tuple[Path, Path] | None), name
