"""``python -m deploy.kubernetes.generate`` writes the PrometheusRule from the rule files; ``--check`` only compares.

Owns that one manifest: kustomize makes config maps of files, but nothing else.
"""

import sys
from pathlib import Path
from typing import Any

import yaml

_FOLDER = Path(__file__).parent
_RULES = _FOLDER.parent / "prometheus" / "rules"
MANIFEST = _FOLDER / "components" / "monitoring" / "prometheus-rule.yaml"

_HEAD = "# Written by python -m deploy.kubernetes.generate from deploy/prometheus/rules; do not edit.\n"


def groups() -> list[Any]:
    """The groups of every rule file."""
    files = [yaml.safe_load(path.read_text("utf-8")) for path in sorted(_RULES.glob("*.yaml"))]
    return [group for file in files for group in file["groups"]]


def rendered() -> str:
    """The text of the manifest."""
    manifest = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "eyebright"},
        "spec": {"groups": groups()},
    }
    return _HEAD + yaml.dump(manifest, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes what stands in two places twice, without anchors."""

    def ignore_aliases(self, _: object) -> bool:
        return True


def main() -> int:
    """Write the file, or compare it; returns the exit status of the process."""
    stale = not MANIFEST.exists() or MANIFEST.read_text("utf-8") != rendered()
    if stale and "--check" not in sys.argv:
        MANIFEST.write_text(rendered(), "utf-8")
    if stale:
        sys.stdout.write(f"{'not up to date' if '--check' in sys.argv else 'written'}: {MANIFEST.name}\n")
    return int("--check" in sys.argv and stale)


if __name__ == "__main__":
    sys.exit(main())
