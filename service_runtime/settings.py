"""Settings that every service has.

Owns their names, units, ranges and defaults. A service derives its own frozen class with its own prefix; nothing else
in a service reads the environment.
"""

import ipaddress
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from service_runtime.tracing import check_installed


class ServiceSettings(BaseSettings):
    """Where a service listens, how it is secured, how it stops and what it logs."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    host: str = "127.0.0.1"
    """Address to bind for gRPC. Anything but loopback needs TLS with tokens or client certificates, or --insecure."""

    port: int = Field(0, ge=0, le=65_535)
    """TCP port for gRPC, 0 to 65,535; 0 takes a free one and says which."""

    metrics_host: str = "127.0.0.1"
    """Address to bind for /metrics, /livez and /readyz, plain HTTP. They tell no secrets; fence them by network."""

    metrics_port: int = Field(0, ge=0, le=65_535)
    """TCP port for /metrics, /livez and /readyz, 0 to 65,535; 0 takes a free one and says which."""

    tls_certificate: Path | None = None
    """PEM file with the server's certificate chain. With tls_key it switches TLS on."""

    tls_key: Path | None = None
    """PEM file with the server's private key, without a password."""

    tls_client_ca: Path | None = None
    """PEM file with the certificates that sign clients' certificates. With it only clients that show one of theirs get
    a connection. All three files are read again when they change; connections that stand go on."""

    token_file: Path | None = None
    """File of the bearer tokens that calls must carry, hashed, each with a scope and collections: a line a token, as
    `eyebright token new` prints it. Read again when it changes. Health checks need no token."""

    insecure: bool = False
    """Allow a bind beyond loopback without TLS, tokens or client certificates: whoever reaches the port may do all."""

    max_message_bytes: int = Field(64 * 1024 * 1024, ge=1024 * 1024, le=1024 * 1024 * 1024)
    """Largest gRPC message taken or sent, in bytes, 1 MiB to 1 GiB. Larger ones are answered RESOURCE_EXHAUSTED."""

    max_concurrent_calls: int = Field(512, ge=1, le=100_000)
    """Most calls answered at a time, streams included, 1 to 100,000. Past it a call gets RESOURCE_EXHAUSTED at once.
    Health checks don't count."""

    request_seconds: float = Field(60.0, gt=0.0, le=3600.0)
    """How long the request of a call may take to arrive, in seconds, up to 3,600; then DEADLINE_EXCEEDED. Streams of
    requests may be silent for as long as their peer is there."""

    max_connections: int = Field(1000, ge=1, le=100_000)
    """Most connections at a time, 1 to 100,000; others are turned away. Each takes one open file, and so does much
    else: keep it well below what the system allows the process."""

    max_idle_seconds: float = Field(600.0, gt=0.0, le=86_400.0)
    """How long a connection without calls is kept, in seconds, up to 86,400. Clients connect anew when they need to."""

    max_connection_seconds: float = Field(0.0, ge=0.0, le=86_400.0)
    """How long a client may keep one connection, in seconds, 0 to 86,400; give or take a tenth. Then it is asked to
    connect anew, and calls under way finish. Behind a name that stands for several replicas, clients so find the new
    ones. 0 sets no limit."""

    drain_seconds: float = Field(20.0, ge=0.0, le=600.0)
    """After SIGTERM, how long calls in flight may take to finish, in seconds, 0 to 600."""

    stall_seconds: float = Field(120.0, gt=0.0, le=3600.0)
    """Without a sign of life for so long, in seconds, up to 3,600, /livez answers 503, so that the process is started
    again. More than the longest piece of work of the service takes."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the JSON lines on standard error."""

    tracing_endpoint: str = Field("", pattern=r"^(https?://[^\s/]+:\d+)?$")
    """Collector that takes traces by OTLP over gRPC, as http://HOST:PORT, or https:// for TLS; empty traces nothing and
    sends nothing anywhere. Needs the extra "otel". Headers and certificates as OpenTelemetry's own variables say:
    OTEL_EXPORTER_OTLP_HEADERS, OTEL_EXPORTER_OTLP_CERTIFICATE."""

    tracing_sample_ratio: float = Field(1.0, ge=0.0, le=1.0)
    """Share of the calls that are traced of those whose caller traces nothing, 0 to 1. A call that continues a caller's
    trace is traced if, and only if, the caller says so."""

    ready_file: Path | None = None
    """File to write once ready: a JSON object with grpc_port and metrics_port, for a parent that asked for port 0."""

    @field_validator("tracing_endpoint")
    @classmethod
    def _check_tracing(cls, endpoint: str) -> str:
        if endpoint:
            check_installed()
        return endpoint

    @model_validator(mode="after")
    def _check_exposure(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError(f"tls_certificate and tls_key go together, not {self.tls_certificate} with {self.tls_key}")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise ValueError(f"tls_client_ca {self.tls_client_ca} needs tls_certificate and tls_key")
        callers_known = self.token_file is not None or self.tls_client_ca is not None
        secured = self.tls_certificate is not None and callers_known
        if not (self.insecure or secured or is_loopback(self.host)):
            raise ValueError(
                f"host {self.host} is reachable from other machines: give tls_certificate, tls_key and one of "
                "token_file and tls_client_ca, or say insecure=true"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address. A name other than localhost may come to mean any machine."""
    address = _ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return host == "localhost" if address is None else address.is_loopback


def bind_address(host: str, port: int) -> str:
    """``host:port``, with the brackets that an IPv6 address needs so that its end is not taken for the port."""
    bare = isinstance(_ip_address(host), ipaddress.IPv6Address) and not host.startswith("[")
    return f"[{host}]:{port}" if bare else f"{host}:{port}"


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        return None
