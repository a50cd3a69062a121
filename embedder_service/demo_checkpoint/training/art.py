"""The art: which emoji exist, what they are called, and a drawing of each in every style.

Owns the reading of the npm packages named in package.json and the rendering of one RGBA picture per emoji and style.
Knows nothing of captions, torch or training.
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

TRAINING_STYLES = ("twemoji", "fluent-3d", "fluent-emoji", "fluent-emoji-flat", "emojione", "fxemoji", "streamline")
"""Styles the checkpoint learns from."""

GALLERY_STYLE = "noto"
"""The style it never sees: the demo gallery, and the test."""

SECOND_UNSEEN_STYLE = "openmoji"
"""A second unseen style, measured and never shipped (its licence is share-alike)."""

STYLES = (*TRAINING_STYLES, GALLERY_STYLE, SECOND_UNSEEN_STYLE)

_ICONIFY_PACKAGE = {style: style for style in STYLES} | {"streamline": "streamline-emojis"}
_FLAGS_GROUP, _COMPONENT_GROUP = 9, 2


@dataclass(frozen=True, slots=True)
class Emoji:
    """One emoji without skin tone: its code points, its English name, its tags and its place in Unicode's taxonomy."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str
    subgroup: str

    @property
    def key(self) -> str:
        """A file-name-safe id: the label as a slug, unlike every other emoji's."""
        spelled = self.label.replace("’", "").replace("#", "hash").replace("*", "asterisk")
        return re.sub(r"[^a-z0-9]+", "-", spelled).strip("-")


def _bare(hexcode: str) -> str:
    """A hexcode in lower case without variation selectors, the form in which the packages agree."""
    return "-".join(part for part in hexcode.lower().split("-") if part != "fe0f")


def read_emoji(node_modules: Path) -> list[Emoji]:
    """Every emoji drawn in both Twemoji and Noto, without flags, components and skin tones, in Unicode order.

    Source: emojibase-data (MIT), English edition.
    """
    folder = node_modules / "emojibase-data"
    messages = json.loads((folder / "en/messages.json").read_text("utf-8"))
    groups = {group["order"]: group["key"] for group in messages["groups"]}
    subgroups = {subgroup["order"]: subgroup["key"] for subgroup in messages["subgroups"]}
    drawn = set.intersection(*(set(_icon_names(node_modules, style)) for style in ("twemoji", GALLERY_STYLE)))
    emoji = []
    for entry in json.loads((folder / "en/data.json").read_text("utf-8")):
        if entry.get("group") in (None, _FLAGS_GROUP, _COMPONENT_GROUP) or _bare(entry["hexcode"]) not in drawn:
            continue
        emoji.append(
            Emoji(
                hexcode=entry["hexcode"],
                label=entry["label"].lower(),
                tags=tuple(tag.lower() for tag in entry.get("tags", ())),
                group=groups[entry["group"]],
                subgroup=subgroups[entry["subgroup"]],
            )
        )
    return emoji


def _icon_names(node_modules: Path, style: str) -> dict[str, str]:
    """Bare hexcode -> icon name, for the packages that ship a character map."""
    path = node_modules / "@iconify-json" / _ICONIFY_PACKAGE[style] / "chars.json"
    return {_bare(code): name for code, name in json.loads(path.read_text("utf-8")).items()}


def _icon_for(emoji: Emoji, icons: dict[str, dict[str, object]], names: dict[str, str]) -> str | None:
    """The icon that draws this emoji: by code points where the package maps them, else by its name."""
    mapped = names.get(_bare(emoji.hexcode))
    flat = emoji.key.replace("-", "")
    for candidate in (mapped, emoji.key, f"{emoji.key}-1", flat):
        if candidate is not None and candidate in icons:
            return candidate
    return None


def draw_style(node_modules: Path, style: str, emoji: list[Emoji], size: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (index into ``emoji``, (size, size, 4) uint8 RGBA with straight alpha) for each one this style has."""
    if style == "fluent-3d":
        yield from _draw_webp(node_modules / "@lobehub/fluent-emoji-3d/assets", emoji, size)
        return
    collection = json.loads(
        (node_modules / "@iconify-json" / _ICONIFY_PACKAGE[style] / "icons.json").read_text("utf-8")
    )
    # fluent-emoji ships no character map and uses the names of its flat sibling.
    mapped = {"fluent-emoji": "fluent-emoji-flat"}.get(style, style)
    has_map = (node_modules / "@iconify-json" / _ICONIFY_PACKAGE[mapped] / "chars.json").exists()
    names = _icon_names(node_modules, mapped) if has_map else {}
    icons = collection["icons"]
    for index, one in enumerate(emoji):
        name = _icon_for(one, icons, names)
        if name is None:
            continue
        icon = icons[name]
        width = icon.get("width", collection.get("width", 16))
        height = icon.get("height", collection.get("height", 16))
        box = f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}"
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box}" width="{size}" height="{size}">{icon["body"]}</svg>'
        )
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
        picture = Image.open(io.BytesIO(png)).convert("RGBA")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.LANCZOS)
        yield index, np.asarray(picture)


def _draw_webp(assets: Path, emoji: list[Emoji], size: int) -> Iterator[tuple[int, np.ndarray]]:
    files = {_bare(path.stem): path for path in assets.glob("*.webp")}
    for index, one in enumerate(emoji):
        path = files.get(_bare(one.hexcode))
        if path is not None:
            with Image.open(path) as picture:
                resized = picture.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
            yield index, np.asarray(resized)
