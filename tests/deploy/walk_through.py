"""What a person does first with a new installation, by the client's command: index the gallery, search, snapshot."""

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

from tests.deploy.dockerfile import ROOT

Eyebright = Callable[..., str]
"""Runs ``eyebright`` with these arguments; returns what it printed."""

GALLERY_SIZE = 1644
_OF_GALLERY = "import eyebright_cli; print(eyebright_cli.__path__[0] + '/demo_gallery/noto.tar')"
PRINT_GALLERY = ("-P", "-c", _OF_GALLERY)
"""Arguments of a Python that print where the gallery lies."""


def index_gallery(eyebright: Eyebright, gallery: str) -> None:
    indexed = json.loads(eyebright("index", gallery, "--json"))
    assert indexed["indexed"] == GALLERY_SIZE, indexed


def search_gallery(eyebright: Eyebright) -> None:
    for caption, expected in (("pizza", "pizza"), ("a red heart", "red-heart")):
        hits = [hit["id"] for hit in json.loads(eyebright("search", caption, "-k", "10", "--json"))["hits"]]
        assert expected in hits, hits


def snapshot_gallery(eyebright: Eyebright, place: str) -> None:
    made = json.loads(eyebright("snapshot", "create", "images", place, "--json"))
    assert made["record_count"] == GALLERY_SIZE


def compose_environment(service: str) -> dict[str, str]:
    """The settings that compose.yaml gives a service where nobody sets a variable."""
    compose: Any = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text("utf-8"))
    environment = compose["services"][service]["environment"]
    return {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environment.items()}
