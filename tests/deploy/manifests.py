"""Rendered Kubernetes manifests, as tests read them."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("local", "production", "gpu")
Manifest = dict[str, Any]


@cache
def render(overlay: str) -> str:
    """The overlay as YAML, made by kustomize."""
    kubectl = Path(sys.executable).with_name("kubectl")
    command = [str(kubectl), "kustomize", str(FOLDER / "overlays" / overlay)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert not finished.stderr, finished.stderr
    return finished.stdout


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    return tuple(yaml.safe_load_all(render(overlay)))


def of_kind(overlay: str, kind: str) -> dict[str, Manifest]:
    """All manifests of a kind, by name."""
    return {found["metadata"]["name"]: found for found in manifests(overlay) if found["kind"] == kind}


@dataclass(frozen=True, slots=True)
class Workload:
    """Something that runs pods."""

    kind: str
    name: str
    pod: Manifest
    """The pod's spec."""
    labels: dict[str, str]
    """The pod's labels."""
    manifest: Manifest

    def container(self) -> Manifest:
        (only,) = self.pod["containers"]
        return dict(only)

    def containers(self) -> list[Manifest]:
        return [*self.pod.get("initContainers", ()), *self.pod["containers"]]


def workloads(overlay: str) -> dict[str, Workload]:
    """Every workload by name."""
    return {workload.name: workload for workload in _workloads(overlay)}


def _workloads(overlay: str) -> Iterator[Workload]:
    for manifest in manifests(overlay):
        if manifest["kind"] in {"Deployment", "StatefulSet"}:
            template = manifest["spec"]["template"]
        elif manifest["kind"] == "CronJob":
            template = manifest["spec"]["jobTemplate"]["spec"]["template"]
        else:
            continue
        name, labels = manifest["metadata"]["name"], template["metadata"]["labels"]
        yield Workload(manifest["kind"], name, template["spec"], labels, manifest)


def environment(overlay: str, container: Manifest) -> dict[str, str]:
    """What a container finds in its environment, config maps looked up, fields of the pod by their path."""
    maps = {name: found["data"] for name, found in of_kind(overlay, "ConfigMap").items()}
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= maps[source["configMapRef"]["name"]]
    for entry in container.get("env", ()):
        if "value" in entry:
            found[entry["name"]] = entry["value"]
            continue
        source = entry["valueFrom"]
        if "configMapKeyRef" in source:
            found[entry["name"]] = maps[source["configMapKeyRef"]["name"]][source["configMapKeyRef"]["key"]]
        else:
            found[entry["name"]] = f"<{source['fieldRef']['fieldPath']}>"
    return found


def quantity(text: str) -> float:
    """A Kubernetes quantity in cores or bytes."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
    for unit, factor in units.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)
