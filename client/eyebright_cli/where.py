"""``--where``: filters as they are typed at a prompt.

Owns how a condition is written. What it means is the SDK's.
"""

import json
import re
from collections.abc import Callable, Sequence
from functools import reduce
from operator import and_
from typing import Annotated, Any

import typer
from eyebright_client import EyebrightError, F, Filter

WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only pictures like this, by their metadata or caption: group=food, camera.iso>=800, tags!=red, "
        'caption^="a dog" (begins so), \'group=["food","toys"]\' (any of these), deleted=null, rating (there is '
        "one). A dot goes into an object. Given several times, all must hold.",
    ),
]

_CONDITION = re.compile(r"\s*([^=!<>^]+?)\s*(?:(!=|<=|>=|\^=|=|<|>)\s*(.*?)\s*)?", re.DOTALL)
_OPERATORS: dict[str, Callable[[F, Any], Filter]] = {
    "=": lambda field, value: field == value,
    "!=": lambda field, value: field != value,
    "<": lambda field, value: field < value,
    "<=": lambda field, value: field <= value,
    ">": lambda field, value: field > value,
    ">=": lambda field, value: field >= value,
}


def parse_where(conditions: Sequence[str] | None) -> Filter | None:
    """The filter that all these make together; None for none. Raises typer.BadParameter."""
    if not conditions:
        return None
    return reduce(and_, [_parsed(condition) for condition in conditions])


def _parsed(condition: str) -> Filter:
    found = _CONDITION.fullmatch(condition)
    if found is None:
        raise typer.BadParameter(
            f"expected FIELD=VALUE, FIELD>=VALUE or the like, not {condition!r}", param_hint="--where"
        )
    name, sign, text = found.groups()
    field = F.caption if name == "caption" else F(*name.split("."))
    try:
        return _made(field, sign, text)
    except EyebrightError as error:
        raise typer.BadParameter(f"{condition!r}: {error}", param_hint="--where") from error


def _made(field: F, sign: str | None, text: str) -> Filter:
    if sign is None:
        return field.exists()
    if sign == "^=":
        return field.startswith(str(_value(text)))
    value = _value(text)
    if sign in ("=", "!=") and (value is None or isinstance(value, list)):
        equal = field.is_null() if value is None else field.isin(value)
        return equal if sign == "=" else ~equal
    return _OPERATORS[sign](field, value)


def _value(text: str) -> Any:  # noqa: ANN401 - what JSON may hold
    """A number, a boolean, null, a list or a quoted string where it is one in JSON, else the text as it stands."""
    try:
        return json.loads(text)
    except ValueError:
        return text
