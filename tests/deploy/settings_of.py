"""Environment variables of a container, held against the settings class that reads them."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic_settings import BaseSettings


def check_settings(settings: type[BaseSettings], environment: Mapping[str, str], patch: pytest.MonkeyPatch) -> Any:
    """The settings that this environment makes. A name with the service's prefix that no setting has is an error."""
    prefix = settings.model_config["env_prefix"]
    known = {f"{prefix}{name.upper()}" for name in settings.model_fields}
    unknown = {name for name in environment if name.startswith(prefix)} - known
    assert not unknown, f"no such settings: {sorted(unknown)}"
    for name in list(os.environ):
        if name.startswith("EYEBRIGHT_"):
            patch.delenv(name)
    for name, value in environment.items():
        if name in known:
            patch.setenv(name, value)
    return settings()
