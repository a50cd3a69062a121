"""The rules of metadata: a JSON object in UTF-8, bounded in size and depth.

Owns the check. The bytes are kept as they came, so that integers stay exact; nothing here changes them.
"""

import json
import re
from typing import NoReturn

MAX_METADATA_BYTES = 64 * 1024
"""Stated in record.proto."""

MAX_METADATA_DEPTH = 32
"""Levels of objects and lists, the outermost included; stated in record.proto."""

MAX_INTEGER_DIGITS = 4300
"""The most that Python's int() reads unless told otherwise: a longer one makes a record unreadable to its callers."""

# A string that is never closed reaches to the end, so that the scan passes over each byte once.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")


class MetadataError(ValueError):
    """Metadata breaks a rule; the message says which, with both values."""


def check_metadata(data: bytes) -> None:
    """Raise MetadataError unless ``data`` keeps the rules."""
    if len(data) > MAX_METADATA_BYTES:
        raise MetadataError(f"expected at most {MAX_METADATA_BYTES} bytes, not {len(data)}")
    _check_depth(data)  # before the parser, whose own depth is bounded by the interpreter's stack
    try:
        value = json.loads(
            data.decode("utf-8"), parse_constant=_refuse_constant, parse_int=_check_integer, parse_float=_keep_number
        )
    except UnicodeDecodeError as error:
        raise MetadataError(f"expected UTF-8, not byte 0x{data[error.start]:02x} at {error.start}") from error
    except json.JSONDecodeError as error:
        raise MetadataError(f"expected a JSON object: {error.msg} at character {error.pos}") from error
    if not isinstance(value, dict):
        raise MetadataError(f"expected a JSON object, not {_kind(value)}")


def _check_depth(data: bytes) -> None:
    if data.count(b"{") + data.count(b"[") <= MAX_METADATA_DEPTH:
        return
    depth = deepest = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"{[" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_METADATA_DEPTH:
        raise MetadataError(f"expected at most {MAX_METADATA_DEPTH} levels, not {deepest}")


def _refuse_constant(name: str) -> NoReturn:
    raise MetadataError(f"expected JSON numbers, not {name}")


def _check_integer(text: str) -> float:
    digits = len(text.removeprefix("-"))
    if digits > MAX_INTEGER_DIGITS:
        raise MetadataError(f"expected integers of at most {MAX_INTEGER_DIGITS} digits, not {digits}")
    return _keep_number(text)


def _keep_number(text: str) -> float:
    """Stand in for a number, which is stored as it came: nothing here needs its value."""
    return float(len(text))


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", float: "a number", bool: "a boolean"}
    return kinds.get(type(value), "null")
