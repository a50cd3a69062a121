"""The retry policy names real methods, and only those that may be repeated."""

import json
from importlib import resources

import pytest
from eyebright.embedder.v1 import embedder_service_pb2
from eyebright.index.v1 import index_service_pb2
from eyebright_client import AsyncClient, Client, InvalidArgument
from eyebright_client._connection import TLS, call_metadata, channel_options

NEVER_REPEATED = {
    "CreateCollection",
    "DeleteCollection",
    "Delete",
    "UpsertStream",
    "EmbedStream",
    "CreateSnapshot",
    "RestoreSnapshot",
    "Optimize",
}


def test_policy_covers_every_method_that_may_be_repeated() -> None:
    policy = json.loads(resources.files("eyebright_client").joinpath("retry_policy.json").read_text("utf-8"))
    (config,) = policy["methodConfig"]
    named = {(entry["service"], entry["method"]) for entry in config["name"]}
    served = {
        (service.full_name, method.name)
        for file in (embedder_service_pb2.DESCRIPTOR, index_service_pb2.DESCRIPTOR)
        for service in file.services_by_name.values()
        for method in service.methods
    }
    assert served - named == {(service, method) for service, method in served if method in NEVER_REPEATED}
    assert named <= served
    assert config["retryPolicy"]["retryableStatusCodes"] == ["UNAVAILABLE", "CANCELLED"]


def test_channel_options_carry_policy_and_limits() -> None:
    options = dict(channel_options(TLS(server_name="index.internal")))
    assert "retryPolicy" in str(options["grpc.service_config"])
    assert "round_robin" in str(options["grpc.service_config"])
    assert options["grpc.max_receive_message_length"] == 64 * 1024 * 1024
    assert options["grpc.ssl_target_name_override"] == "index.internal"
    assert int(options["grpc.keepalive_time_ms"]) > 300_000  # below it servers answer too_many_pings


@pytest.mark.parametrize("token", ["a\nb", "caf\u00e9", "a\x00b"])
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_token_that_no_header_can_carry_is_refused_at_once(client: type[Client | AsyncClient], token: str) -> None:
    with pytest.raises(InvalidArgument, match="token: expected printable ASCII") as caught:
        client(token=token)
    assert token not in str(caught.value)


def test_calls_carry_request_id_and_token() -> None:
    assert call_metadata("r1", None, ()) == (("x-request-id", "r1"),)
    assert call_metadata("r1", "secret", ()) == (("x-request-id", "r1"), ("authorization", "Bearer secret"))
