"""Channels to the services, made but not yet connected.

Owns channel options, TLS, and the metadata that every call carries. Knows no message.

``retry_policy.json`` is the gRPC service config. It spreads calls over all addresses that a name stands for, so that
``dns:///embedder:7001`` uses every replica behind a headless Kubernetes service. It repeats a call up to three times
that failed with UNAVAILABLE, or that the server CANCELLED, as gRPC does with what arrives while a server stops; which
calls wait for a service that is away, ``_session`` says. It lists only methods that may be repeated: those that read,
Upsert (a record replaces the old one whole) and UpdateRecords (it sets fields to stated values). Not listed are
CreateCollection, DeleteCollection and Delete, because a call that succeeded with its answer lost would come back as
ALREADY_EXISTS, NOT_FOUND, or a wrong count; and the streams, whose batches ``_indexing`` repeats one by one.
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import grpc

from eyebright_client._calls import Metadata
from eyebright_client._exceptions import InvalidArgument
from eyebright_client._limits import MAX_MESSAGE_BYTES

Options = list[tuple[str, int | str]]

_KEEPALIVE_MS = 330_000  # gRPC servers drop clients that ping an idle connection more often than every 300 s
_KEEPALIVE_TIMEOUT_MS = 20_000
_FIRST_RECONNECT_MS = 100
_LONGEST_RECONNECT_MS = 2_000  # gRPC's own 120 s would outlast most restarts of a service
_SHORTEST_RESOLUTION_MS = 2_000  # gRPC's own 30 s would keep to the address of a pod that is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class TLS:
    """An encrypted connection. Certificates are PEM, as bytes or as the path of a file.

    ``root_certificates``: whom to trust; None trusts what gRPC brings along. ``certificate_chain`` and
    ``private_key``: the client's own identity, for servers that ask for one. ``server_name``: the name that the
    server's certificate must bear when it is not the host of the address.
    """

    root_certificates: bytes | str | Path | None = None
    certificate_chain: bytes | str | Path | None = None
    private_key: bytes | str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """The channel credentials. Raises OSError when a file can't be read, InvalidArgument for half an identity."""
        if (self.certificate_chain is None) != (self.private_key is None):
            given, missing = ("certificate_chain", "private_key")[:: 1 if self.private_key is None else -1]
            raise InvalidArgument(f"tls: expected certificate_chain and private_key, not {given} without {missing}")
        return grpc.ssl_channel_credentials(
            _pem(self.root_certificates), _pem(self.private_key), _pem(self.certificate_chain)
        )


def _pem(source: bytes | str | Path | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()


def channel_options(tls: TLS | None) -> Options:
    """Options of a channel, sync or async."""
    options: Options = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _LONGEST_RECONNECT_MS),
        ("grpc.dns_min_time_between_resolutions_ms", _SHORTEST_RESOLUTION_MS),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", resources.files(__package__).joinpath("retry_policy.json").read_text("utf-8")),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def checked_token(token: str | None) -> str | None:
    """The token. Raises InvalidArgument, without saying the token, for what no header can carry."""
    if token is not None and not (token.isascii() and token.isprintable()):
        raise InvalidArgument("token: expected printable ASCII on one line, not what was given", field="token")
    return token


def call_metadata(request_id: str, token: str | None, trace: Metadata) -> Metadata:
    """What every call carries: its id and, if there are any, its place in a trace and the token."""
    metadata: Metadata = (("x-request-id", request_id), *trace)
    return metadata if token is None else (*metadata, ("authorization", f"Bearer {token}"))
