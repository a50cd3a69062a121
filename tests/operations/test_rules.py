"""The alert rules: right by promtool, of series that exist, and each with a runbook."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.operations.series import alerts, code_spans, known_names, named, rules
from tests.operations.watching import RULES, SHIPPED, program

UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))
RUNBOOK = Path(__file__).parents[2] / "docs" / "operations.md"


def runbook() -> dict[str, str]:
    """The sections of "Alerts", by headline."""
    section = RUNBOOK.read_text("utf-8").split("\n## Alerts\n")[1].split("\n## ")[0]
    _, *parts = re.split(r"^### (.+)\n", section, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_promtool_finds_them_right() -> None:
    promtool = program("promtool")
    for arguments in (
        ["check", "config", str(SHIPPED / "prometheus.yaml")],
        ["check", "rules", "--lint-fatal", *map(str, sorted(RULES.glob("*.yaml")))],
        ["test", "rules", *map(str, UNIT_TESTS)],
    ):
        found = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout + found.stderr


def test_promtool_fires_every_alert_once() -> None:
    fired = set()
    for path in UNIT_TESTS:
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            samples = [sample for asked in test["promql_expr_test"] for sample in asked["exp_samples"]]
            fired |= {name for sample in samples for name in re.findall(r'alertname="(\w+)"', sample["labels"])}
            for asked in test["promql_expr_test"]:
                if asked["exp_samples"]:
                    fired |= set(re.findall(r'ALERTS\{[^}]*alertname="(\w+)"', asked["expr"]))
    assert fired == set(alerts())


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_name_series_that_exist(rule: dict[str, str]) -> None:
    assert named(rule["expr"]) <= known_names()


@pytest.mark.parametrize("name", alerts())
def test_every_alert_says_how_bad_it_is_and_where_its_runbook_lies(name: str) -> None:
    for rule in alerts()[name]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    section = runbook()[name]
    for part in ("**Means**", "**Confirm**", "**Do**"):
        assert part in section
    severities = {rule["labels"]["severity"] for rule in alerts()[name]}
    listed = re.search(rf"^\| \[{name}\]\(#{name.lower()}\) \| ([\w ]+) \|", RUNBOOK.read_text("utf-8"), re.MULTILINE)
    assert listed, f"{name} is missing in the table"
    assert set(listed[1].split(" or ")) == severities


def test_the_runbook_knows_no_alert_that_there_is_not() -> None:
    assert list(runbook()) == list(dict.fromkeys(alerts())), "expected the runbook in the order of the rules"


def test_what_the_runbook_asks_of_prometheus_can_be_asked() -> None:
    asked = [
        span
        for section in runbook().values()
        for span in code_spans(section)
        if re.search(r"\beyebright[_:]|^process_|^rate\(|^up\{|^changes\(", span)
    ]
    assert len(asked) > len(alerts())
    for query in asked:
        assert named(query) <= known_names(), query
