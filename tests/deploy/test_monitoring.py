"""Prometheus and Grafana as they are provisioned, and the metric that the autoscaler asks for."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.kubernetes import generate
from embedder_service.metrics import EmbedderMetrics
from embedder_service.settings import EmbedderSettings
from index_service.settings import IndexSettings
from tests.deploy.manifests import of_kind

FOLDER = Path(__file__).parents[2] / "deploy"
PORTS = {
    "embedder": EmbedderSettings.model_fields["metrics_port"].default,
    "index": IndexSettings.model_fields["metrics_port"].default,
}


def load(path: str) -> Any:
    return yaml.safe_load((FOLDER / path).read_text("utf-8"))


def _labels(manifest: Any) -> Any:
    return manifest["metadata"].get("labels", {})


def adapter_rule() -> Any:
    (rule,) = load("kubernetes/components/autoscaling/prometheus-adapter-values.yaml")["rules"]["custom"]
    return rule


def adapter_query(matchers: str, group: str) -> str:
    """The query that prometheus-adapter makes of the rule."""
    return str(adapter_rule()["metricsQuery"]).replace("<<.LabelMatchers>>", matchers).replace("<<.GroupBy>>", group)


def test_prometheus_scrapes_both_services_where_compose_runs_them() -> None:
    targets = {}
    for job in load("prometheus/prometheus.yaml")["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            targets[job["job_name"]] = [f"{name}:{found['port']}" for name in found["names"]]
        for found in job.get("static_configs", ()):
            targets[job["job_name"]] = found["targets"]
    assert targets == {f"eyebright-{name}": [f"{name}:{port}"] for name, port in PORTS.items()}
    assert set(PORTS) <= set(load("compose.yaml")["services"])
    # The operator calls a job after the service it found: rules and dashboards see the same names everywhere.
    assert set(targets) <= set(of_kind("production", "Service"))


def test_what_is_provisioned_lies_where_it_is_mounted() -> None:
    services = load("compose.yaml")["services"]
    grafana = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = load("grafana/provisioning/dashboards/eyebright.yaml")["providers"]
    assert provider["options"]["path"] == grafana["./grafana/dashboards"]
    assert grafana["./grafana/provisioning"] == "/etc/grafana/provisioning"
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    prometheus = dict(volume.split(":")[:2] for volume in services["prometheus"]["volumes"])
    configured = f"--config.file={prometheus['./prometheus']}/prometheus.yaml"
    assert configured in services["prometheus"]["command"]
    assert f"--storage.tsdb.path={prometheus['prometheus-data']}" in services["prometheus"]["command"]
    (rules,) = load("prometheus/prometheus.yaml")["rule_files"]
    assert list((FOLDER / "prometheus").glob(rules))


@pytest.mark.parametrize("overlay", ["production", "gpu"])
def test_kubernetes_gets_the_same_rules_and_dashboards(overlay: str) -> None:
    (rule,) = of_kind(overlay, "PrometheusRule").values()
    files = sorted((FOLDER / "prometheus" / "rules").glob("*.yaml"))
    assert rule["spec"]["groups"] == [group for file in files for group in load(str(file))["groups"]]
    dashboards = {path.name: path.read_text("utf-8") for path in (FOLDER / "grafana" / "dashboards").iterdir()}
    maps = [found for found in of_kind(overlay, "ConfigMap").values() if "grafana_dashboard" in _labels(found)]
    assert {name: text for found in maps for name, text in found["data"].items()} == dashboards
    # kubectl apply keeps the whole object in an annotation, and all annotations together may have 256 KiB.
    assert max(len(json.dumps(found)) for found in maps) < 200_000


def test_the_rule_for_kubernetes_is_what_the_code_makes() -> None:
    assert generate.MANIFEST.read_text("utf-8") == generate.rendered(), "run python -m deploy.kubernetes.generate"


def test_the_autoscaler_asks_for_what_the_adapter_makes_of_series_that_exist() -> None:
    rule = adapter_rule()
    for scaler in of_kind("production", "HorizontalPodAutoscaler").values():
        assert [metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]] == [rule["name"]["as"]]
    registry = CollectorRegistry()
    EmbedderMetrics(registry)
    samples = [sample for family in registry.collect() for sample in family.samples]
    asked = re.findall(r"(eyebright_\w+)\{(\w+)=\"(\w+)\"", rule["seriesQuery"] + rule["metricsQuery"])
    assert len(asked) == 3
    for name, label, value in asked:
        assert any(sample.name == name and sample.labels.get(label) == value for sample in samples), name


@pytest.mark.long
def test_the_adapters_query_gives_mean_seconds_for_each_pod(tmp_path: Path) -> None:
    """By promtool, Prometheus's own: 10 waits of 0.5 s in each minute in one pod, none in another, bulk left out."""
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing; on Debian: apt-get install --no-install-recommends prometheus"
    query = adapter_query('namespace="eyebright",pod=~"busy|idle"', "pod")
    series = {
        'sum{priority="interactive",tower="text",namespace="eyebright",pod="busy"}': "0+2.5x20",
        'sum{priority="interactive",tower="image",namespace="eyebright",pod="busy"}': "0+2.5x20",
        'sum{priority="bulk",tower="image",namespace="eyebright",pod="busy"}': "0+1000x20",
        'sum{priority="interactive",tower="text",namespace="eyebright",pod="idle"}': "7x20",
        'count{priority="interactive",tower="text",namespace="eyebright",pod="busy"}': "0+5x20",
        'count{priority="interactive",tower="image",namespace="eyebright",pod="busy"}': "0+5x20",
        'count{priority="bulk",tower="image",namespace="eyebright",pod="busy"}': "0+1x20",
        'count{priority="interactive",tower="text",namespace="eyebright",pod="idle"}': "70x20",
    }
    samples = [{"labels": '{pod="busy"}', "value": 0.5}, {"labels": '{pod="idle"}', "value": 0}]
    test = {
        "evaluation_interval": "30s",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"eyebright_embedder_queue_seconds_{name}", "values": values}
                    for name, values in series.items()
                ],
                "promql_expr_test": [{"expr": query, "eval_time": "10m", "exp_samples": samples}],
            }
        ],
    }
    path = tmp_path / "test.yaml"
    path.write_text(yaml.safe_dump(test), "utf-8")
    for command in (
        [promtool, "test", "rules", str(path)],
        [promtool, "check", "config", str(FOLDER / "prometheus" / "prometheus.yaml")],
    ):
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        assert finished.returncode == 0, finished.stdout + finished.stderr
