"""The component that sends traces: rendered over the production overlay, where it stands as a line to uncomment."""

import os
from pathlib import Path
from urllib.parse import urlparse

import kubernetes_validate
import pytest

from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from tests.deploy.dockerfile import image_environment
from tests.deploy.manifests import FOLDER, environment, manifests, of_kind, workloads
from tests.deploy.settings_of import check_settings


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("traced")

    def beside(path: str) -> str:
        return os.path.relpath((FOLDER / path).resolve(), folder.resolve())

    kustomization = (
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{beside('overlays/production')}]\ncomponents: [{beside('components/tracing')}]\n"
    )
    (folder / "kustomization.yaml").write_text(kustomization, "utf-8")
    return str(folder)


def test_the_production_overlay_shows_where_it_goes() -> None:
    text = (FOLDER / "overlays" / "production" / "kustomization.yaml").read_text("utf-8")
    assert "\n  # - ../../components/tracing" in text
    assert (FOLDER / "components" / "tracing").is_dir()


def test_both_services_send_to_a_collector_that_they_may_reach(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for manifest in manifests(overlay):
        if manifest["kind"] not in {"PrometheusRule", "ServiceMonitor"}:
            kubernetes_validate.validate(manifest, "1.37", strict=True)
    policy = of_kind(overlay, "NetworkPolicy")["services-send-traces"]["spec"]
    assert policy["policyTypes"] == ["Egress"]
    (selected,) = policy["podSelector"]["matchExpressions"]
    collector, _ = policy["egress"]
    (port,), (where,) = collector["ports"], collector["to"]
    for name, settings_class in (("embedder", EmbedderSettings), ("index", IndexSettings)):
        workload = workloads(overlay)[f"eyebright-{name}"]
        assert workload.labels[selected["key"]] in selected["values"]
        given = environment(overlay, workload.container())
        settings = check_settings(settings_class, image_environment(name) | given, monkeypatch)
        assert 0 < settings.tracing_sample_ratio < 1
        endpoint = urlparse(settings.tracing_endpoint)
        assert endpoint.port == port["port"]
        namespace = where["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        assert str(endpoint.hostname).endswith(f".{namespace}.svc")


def test_compose_sends_where_the_caller_says() -> None:
    text = Path(FOLDER.parent / "compose.yaml").read_text("utf-8")
    for name in ("EMBEDDER", "INDEX"):
        assert f"EYEBRIGHT_{name}_TRACING_ENDPOINT: ${{TRACING_ENDPOINT:-}}" in text
