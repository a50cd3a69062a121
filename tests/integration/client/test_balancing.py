"""Several replicas behind one name: calls are spread over them, and new ones are found."""

import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.client.conftest import MakeClient
from tests.integration.client.name_server import NameServer
from tests.processes import RunningService, start_service


def answered(service: RunningService) -> int:
    """How many calls a service has answered."""
    with urllib.request.urlopen(f"{service.metrics_url}/metrics") as response:
        text = response.read().decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return int(sum(sample.value for sample in samples if sample.name == "eyebright_rpc_latency_seconds_count"))


def start_replica(stack: ExitStack, folder: Path, host: str, *arguments: str) -> RunningService:
    service = start_service("index_service", folder, "--host", host, "--data-folder", str(folder / "data"), *arguments)
    stack.callback(service.kill)
    return service


def test_calls_are_spread_and_a_new_replica_is_found(make_client: MakeClient, tmp_path: Path) -> None:
    with ExitStack() as stack, NameServer(["127.0.0.1"]) as names:
        first = start_replica(stack, tmp_path / "1", "127.0.0.1", "--max-connection-seconds", "1")
        port = first.address.rpartition(":")[2]
        second = start_replica(stack, tmp_path / "2", "127.0.0.2", "--port", port)
        client = make_client(None, f"dns://127.0.0.1:{names.port}/index.test:{port}")
        for _ in range(10):
            client.list_collections()
        assert (answered(first), answered(second)) == (10, 0)

        names.addresses = ["127.0.0.1", "127.0.0.2"]
        deadline = time.monotonic() + 60
        while answered(second) == 0:
            client.list_collections()
            assert time.monotonic() < deadline, "the second replica was never found"
        counts = answered(first), answered(second)
        for _ in range(20):
            client.list_collections()
        shares = answered(first) - counts[0], answered(second) - counts[1]
        assert sum(shares) == 20
        assert min(shares) >= 8, f"expected calls turn about, not {shares}"


def test_a_replica_that_is_gone_is_not_asked(make_client: MakeClient, tmp_path: Path) -> None:
    with ExitStack() as stack, NameServer(["127.0.0.1", "127.0.0.2"]) as names:
        first = start_replica(stack, tmp_path / "1", "127.0.0.1")
        port = first.address.rpartition(":")[2]
        second = start_replica(stack, tmp_path / "2", "127.0.0.2", "--port", port)
        client = make_client(None, f"dns://127.0.0.1:{names.port}/index.test:{port}")
        client.wait_until_ready(30)
        first.kill()
        counted = answered(second)
        for _ in range(20):
            client.list_collections()
        assert answered(second) >= counted + 20
