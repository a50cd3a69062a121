"""What a peer may ask of the gRPC server before any call is let in: sizes, connections, silence.

Owns gRPC's names for the settings, and the limits that are no settings.
"""

from collections.abc import Iterable

from service_runtime.errors import ResourceExhausted
from service_runtime.gate import MOST_HEALTH_CALLS
from service_runtime.settings import ServiceSettings

_HANDSHAKE_MS = 20_000
"""For TLS and HTTP/2's own greeting; gRPC's own is 120 s."""

_KEEPALIVE_MS, _KEEPALIVE_TIMEOUT_MS = 60_000, 20_000
"""How soon a peer that is gone, with a call under way, is asked for, and taken for gone."""

_PING_MS = 300_000
"""How often a client may ask the same; one that asks more often loses its connection. The SDK asks every 330 s."""

_READ_AHEAD_BYTES = 1024 * 1024
"""Of each stream, beside the message that is asked for."""

MAX_METADATA_BYTES = 16 * 1024
"""Of one call, names and values. gRPC has a limit of its own, but takes megabytes from a peer that has not acknowledged
its settings yet, and holds them as long as the call."""

_IDENTITY_ONLY = 1
"""The set of compressions taken: none. A compressed message may become a thousand times its size, and vectors and
pictures don't get smaller."""


def server_options(settings: ServiceSettings) -> list[tuple[str, int]]:
    """The options of the gRPC server."""
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        # A second process on the same port would answer half of the calls.
        ("grpc.so_reuseport", 0),
        # Not what gRPC takes the connection to be good for: with large messages that came to 80 MB a stream, held for
        # callers that are being made to wait.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _READ_AHEAD_BYTES),
        ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_MS),
        # More than are answered at a time, so that who asks too much is told rather than held.
        ("grpc.max_concurrent_streams", 2 * settings.max_concurrent_calls + MOST_HEALTH_CALLS),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_connection_idle_ms", _milliseconds(settings.max_idle_seconds)),
    ]
    if settings.max_connection_seconds:
        options.append(("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_seconds)))
    return options


def check_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> None:
    """Raise ResourceExhausted when the metadata of a call are too much."""
    size = sum(len(key) + len(value) for key, value in metadata)
    if size > MAX_METADATA_BYTES:
        raise ResourceExhausted(f"expected at most {MAX_METADATA_BYTES:,} bytes of metadata, not {size:,}")


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
