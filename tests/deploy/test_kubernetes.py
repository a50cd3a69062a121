"""The Kubernetes manifests: valid, restricted, and of one mind with the services' settings."""

import copy
from typing import Any

import kubernetes_validate
import pytest
from pydantic_settings import BaseSettings

from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from tests.deploy.dockerfile import image_environment
from tests.deploy.manifests import (
    OVERLAYS,
    Manifest,
    Workload,
    environment,
    manifests,
    of_kind,
    quantity,
    workloads,
)
from tests.deploy.settings_of import check_settings

SERVICES: dict[str, type[BaseSettings]] = {"embedder": EmbedderSettings, "index": IndexSettings}
OLDEST_KUBERNETES, NEWEST_KUBERNETES = "1.30", "1.37"

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


def service(overlay: str, name: str) -> tuple[Workload, Manifest]:
    """The workload of a service and its container."""
    workload = workloads(overlay)[f"eyebright-{name}"]
    return workload, workload.container()


def settings_of(overlay: str, name: str, patch: pytest.MonkeyPatch) -> Any:
    """The settings that the service starts with: the image's environment under the pod's."""
    _, container = service(overlay, name)
    return check_settings(SERVICES[name], image_environment(name) | environment(overlay, container), patch)


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
def test_manifests_follow_the_schemas(overlay: str, version: str) -> None:
    without_schema = set()
    for manifest in manifests(overlay):
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            without_schema.add(manifest["kind"])
    assert without_schema <= {"PrometheusRule", "ServiceMonitor"}


def test_a_field_that_does_not_exist_would_be_found(overlay: str) -> None:
    wrong = copy.deepcopy(of_kind(overlay, "Deployment")["eyebright-embedder"])
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]["url"] = "/readyz"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST_KUBERNETES, strict=True)


def test_environment_is_accepted_by_the_settings(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = settings_of(overlay, "embedder", monkeypatch)
    index = settings_of(overlay, "index", monkeypatch)
    for settings in (embedder, index):
        assert settings.insecure == (overlay == "local")
        assert (settings.token_file is None) == (overlay == "local")
    assert embedder.device == ("cuda" if overlay == "gpu" else "cpu")
    assert embedder.max_connection_seconds > 0, "clients of a headless service would never find new pods"
    assert bool(index.snapshot_urls) == (overlay != "local")


@pytest.mark.parametrize("name", SERVICES)
def test_ports_and_probes_are_the_services_own(overlay: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(overlay, name, monkeypatch)
    _, container = service(overlay, name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    (served,) = [found for key, found in of_kind(overlay, "Service").items() if key == f"eyebright-{name}"]
    by_name = {port["name"]: (port["port"], port["targetPort"]) for port in served["spec"]["ports"]}
    assert by_name == {"grpc": (settings.port, "grpc"), "metrics": (settings.metrics_port, "metrics")}
    for probe, path in (("startupProbe", None), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        asked = container[probe]["httpGet"]
        assert asked["port"] == "metrics"
        assert asked["path"] in ({path} if path else {"/readyz", "/livez"})


@pytest.mark.parametrize("name", SERVICES)
def test_there_is_time_to_drain(overlay: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(overlay, name, monkeypatch)
    workload, container = service(overlay, name)
    leaving = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert workload.pod["terminationGracePeriodSeconds"] >= leaving + settings.drain_seconds + 10


def test_files_that_settings_name_are_mounted(overlay: str) -> None:
    checked = 0
    for workload in workloads(overlay).values():
        for container in workload.containers():
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            given = environment(overlay, container)
            paths = [value for value in given.values() if value.startswith(("/etc/", "/models", "/data"))]
            paths += [part.partition("=")[2] for part in container.get("args", ()) if "=/" in part]
            for path in paths:
                assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path
                checked += 1
            volumes = {volume["name"] for volume in workload.pod.get("volumes", ())}
            volumes |= {
                claim["metadata"]["name"] for claim in workload.manifest["spec"].get("volumeClaimTemplates", ())
            }
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert checked >= (0 if overlay == "local" else 10)


def test_every_container_is_restricted(overlay: str) -> None:
    for workload in workloads(overlay).values():
        pod = workload.pod
        assert pod["automountServiceAccountToken"] is False
        # Kubernetes would else set EYEBRIGHT_INDEX_PORT=tcp://... for a service called eyebright-index.
        assert pod["enableServiceLinks"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in workload.containers():
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            for resource in ("cpu", "memory"):
                asked = quantity(container["resources"]["requests"][resource])
                assert 0 < asked <= quantity(container["resources"]["limits"][resource])
    (namespace,) = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_images_are_ours_and_have_a_tag(overlay: str) -> None:
    for workload in workloads(overlay).values():
        for container in workload.containers():
            name, _, tag = container["image"].rpartition(":")
            assert name.rpartition("/")[2].removesuffix("-cuda") in {f"eyebright-{n}" for n in (*SERVICES, "client")}
            assert tag == "0.1.0"


def test_the_index_is_one_and_keeps_its_volume(overlay: str) -> None:
    workload, container = service(overlay, "index")
    assert workload.kind == "StatefulSet"
    assert workload.manifest["spec"]["replicas"] == 1
    assert workload.manifest["spec"]["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["data"] == image_environment("index")["EYEBRIGHT_INDEX_DATA_FOLDER"]
    scaled = [found["spec"]["scaleTargetRef"]["name"] for found in of_kind(overlay, "HorizontalPodAutoscaler").values()]
    assert scaled == ([] if overlay == "local" else ["eyebright-embedder"])


def test_the_embedder_is_found_pod_by_pod_and_keeps_some(overlay: str) -> None:
    served = of_kind(overlay, "Service")["eyebright-embedder"]
    assert served["spec"]["clusterIP"] == "None"
    workload, _ = service(overlay, "embedder")
    assert ("replicas" in workload.manifest["spec"]) == (overlay == "local"), "an autoscaler's count would be undone"
    (budget,) = of_kind(overlay, "PodDisruptionBudget").values()
    labels = budget["spec"]["selector"]["matchLabels"]
    assert labels.items() <= workload.labels.items()
    assert not labels.items() <= workloads(overlay)["eyebright-index"].labels.items()


def test_only_labelled_clients_and_prometheus_are_let_in(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = of_kind(overlay, "NetworkPolicy")
    denied = policies["deny-all"]["spec"]
    assert denied == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for name in SERVICES:
        settings = settings_of(overlay, name, monkeypatch)
        workload, _ = service(overlay, name)
        let_in = {}
        for policy in policies.values():
            selected = policy["spec"]["podSelector"].get("matchLabels", {})
            if not selected or not selected.items() <= workload.labels.items():
                continue
            for rule in policy["spec"].get("ingress", ()):
                (who,), (port,) = rule["from"], rule["ports"]
                let_in[port["port"]] = who
        assert let_in == {
            settings.port: {
                "namespaceSelector": {"matchLabels": {"eyebright.clients": "true"}},
                "podSelector": {"matchLabels": {"eyebright.client": "true"}},
            },
            settings.metrics_port: {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
            },
        }
    (namespace,) = of_kind(overlay, "Namespace").values()
    assert namespace["metadata"]["labels"]["eyebright.clients"] == "true"


def test_the_snapshot_job_may_call_and_asks_for_a_place_that_the_index_may_use(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if overlay == "local":
        assert "eyebright-snapshot" not in workloads(overlay)
        return
    job = workloads(overlay)["eyebright-snapshot"]
    assert job.manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert job.labels["eyebright.client"] == "true"
    container = job.container()
    given = environment(overlay, container)
    command, verb, collection, url, *_ = (_expanded(part, given) for part in container["args"])
    assert (command, verb, collection) == ("snapshot", "create", "images")
    (allowed,) = settings_of(overlay, "index", monkeypatch).snapshot_urls
    assert url == f"{allowed}/images/<metadata.name>", "each attempt needs a folder of its own"
    index = of_kind(overlay, "Service")["eyebright-index"]
    assert given["EYEBRIGHT_INDEX"] == f"dns:///eyebright-index.eyebright.svc:{index['spec']['ports'][0]['port']}"


def test_prometheus_is_told_of_both_services(overlay: str) -> None:
    if overlay == "local":
        return
    (monitor,) = of_kind(overlay, "ServiceMonitor").values()
    (expression,) = monitor["spec"]["selector"]["matchExpressions"]
    for name in SERVICES:
        served = of_kind(overlay, "Service")[f"eyebright-{name}"]
        assert served["metadata"]["labels"][expression["key"]] in expression["values"]
        assert monitor["spec"]["endpoints"][0]["port"] in {port["name"] for port in served["spec"]["ports"]}
    assert "app.kubernetes.io/name" not in of_kind(overlay, "Service")["eyebright-index-pods"]["metadata"]["labels"]


def test_the_checkpoint_is_fetched_by_the_container_before(overlay: str) -> None:
    workload, container = service(overlay, "embedder")
    before = workload.pod.get("initContainers", [])
    if overlay == "local":
        assert not before
        return
    (fetch,) = before
    given = environment(overlay, fetch)
    assert fetch["image"] == container["image"]
    (target,) = [part.partition("=")[2] for part in fetch["args"] if part.startswith("--local-dir=")]
    assert environment(overlay, container)["EYEBRIGHT_EMBEDDER_MODEL"] == target
    assert _expanded(fetch["args"][0], given).count("/") == 1
    assert all("$(" not in _expanded(part, given) for part in fetch["args"])


def test_names_of_config_maps_and_services_resolve(overlay: str) -> None:
    names = {(found["kind"], found["metadata"]["name"]) for found in manifests(overlay)}
    workload, _ = service(overlay, "index")
    assert ("Service", workload.manifest["spec"]["serviceName"]) in names
    assert len(names) == len(manifests(overlay))


def _expanded(text: str, given: dict[str, str]) -> str:
    for name, value in given.items():
        text = text.replace(f"$({name})", value)
    return text
