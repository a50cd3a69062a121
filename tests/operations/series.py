"""Which series there can be, and which a query names."""

import re
from typing import Any

import promql_parser
import yaml

from docs.metric_inventory import SERVICES, exported
from tests.operations.watching import RULES

OF_PROMETHEUS = {"up", "ALERTS"}
"""What Prometheus makes itself."""


def rules() -> list[dict[str, Any]]:
    """Every shipped rule, alerts and records."""
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(RULES.glob("*.yaml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> dict[str, list[dict[str, Any]]]:
    """The alerts by name; one of several windows is several rules."""
    found: dict[str, list[dict[str, Any]]] = {}
    for rule in rules():
        if "alert" in rule:
            found.setdefault(rule["alert"], []).append(rule)
    return found


def known_names() -> set[str]:
    """What the services export, and what the rules record."""
    exports = {name for make in SERVICES.values() for metric in exported(make) for name in metric.samples}
    return exports | {rule["record"] for rule in rules() if "record" in rule} | OF_PROMETHEUS


def named(expr: str) -> set[str]:
    """The series that a query names. Raises ValueError when it is no PromQL."""
    names: set[str] = set()

    def visit(node: promql_parser.Expr) -> None:
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, f"expected a name in every selector: {expr}"
            names.add(node.name)

    promql_parser.walk(promql_parser.parse(expr), visit)
    return names


def code_spans(text: str) -> list[str]:
    """What stands between backticks in Markdown."""
    return re.findall(r"`([^`]+)`", text.replace("\n", " "))
