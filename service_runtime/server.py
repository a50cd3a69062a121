"""The life of a service: start, serve, stop.

Owns the gRPC server, health, reflection, the plain HTTP endpoint and the reaction to signals. Knows nothing of what is
served: a service brings a Hosted and gets called back.
"""

import asyncio
import json
import logging
import math
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from grpc import aio
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from service_runtime.access import Access
from service_runtime.gate import Gate
from service_runtime.http_endpoint import HttpEndpoint
from service_runtime.interceptors import CallInterceptor
from service_runtime.lifecycle import Lifecycle
from service_runtime.limits import server_options
from service_runtime.process_metrics import ProcessMetrics
from service_runtime.reloading import ReloadMetrics
from service_runtime.rpc_metrics import RpcMetrics
from service_runtime.settings import ServiceSettings, bind_address
from service_runtime.tls import TlsFiles, server_credentials
from service_runtime.tokens import Tokens

if TYPE_CHECKING:
    from service_runtime.open_telemetry import Tracing

_ILL_DRAIN_SECONDS = 2.0
"""How long calls in flight may take to finish, at most, when the service can't go on or is not alive."""

_ILL_EXIT_SECONDS = 15.0
"""After this such a process ends, whatever its threads still wait for."""

_LINGER_SECONDS = 0.2
"""Between NOT_SERVING and the end of new calls. gRPC cancels what has arrived and no handler has begun, and under load
something always has: this long, all that came before the signal is let in."""

_logger = logging.getLogger("eyebright.server")


class Hosted(Protocol):
    """What a service gives to be hosted."""

    service_name: str
    """Full name of the gRPC service, e.g. ``eyebright.index.v1.IndexService``."""

    access: Mapping[str, Access]
    """What each of its methods needs, by the method's name."""

    def register(self, server: aio.Server) -> None:
        """Add the servicer to the server."""

    async def start(self, lifecycle: Lifecycle) -> None:
        """Make ready to answer; the server accepts calls once this returns. An exception ends the process.

        The lifecycle is told from then on when readiness is withdrawn or given back, and when the service can't go on.
        """

    def ailment(self) -> str:
        """Why the process should be ended and started again; empty while it is alive. Asked at any time after
        construction, from another thread, by /livez.
        """
        ...

    async def drain(self) -> None:
        """End what would go on for long; called before the calls under way are waited for, also when start failed
        midway.
        """

    async def stop(self) -> None:
        """Release everything; called after the last call has ended, also when start failed midway."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a running service can be reached."""

    grpc: int
    metrics: int


class Server:
    """Hosts one service. ``async with Server(...) as server`` runs it; ``server.ports`` says where."""

    def __init__(self, hosted: Hosted, settings: ServiceSettings, registry: CollectorRegistry) -> None:
        self._hosted = hosted
        self._settings = settings
        self._reload_metrics = ReloadMetrics(registry)
        access = {f"/{hosted.service_name}/{method}": needed for method, needed in hosted.access.items()}
        tokens = None if settings.token_file is None else Tokens(settings.token_file, self._reload_metrics)
        gate = Gate(access, tokens, settings.max_concurrent_calls)
        interceptors: list[aio.ServerInterceptor] = [
            CallInterceptor(RpcMetrics(registry), gate, settings.request_seconds)
        ]
        self._tracing = _tracing(settings, hosted.service_name)
        if self._tracing is not None:
            interceptors.insert(0, self._tracing.interceptor)
        self._server = aio.server(interceptors=interceptors, options=server_options(settings))
        self.lifecycle = Lifecycle(hosted.service_name, hosted.ailment, settings.stall_seconds)
        ProcessMetrics(registry, hosted.service_name, self.lifecycle.obstacle, self.lifecycle.ailment)
        self._http = HttpEndpoint(registry, self.lifecycle)
        self.ports = Ports(0, 0)
        self._stopping = False
        self._watching: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Server":
        """Start; everything begun is undone when it fails."""
        try:
            await self._start()
        except BaseException:
            await self._shut_down(0.0)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        most = _ILL_DRAIN_SECONDS if self.lifecycle.ailment() else math.inf
        await self._shut_down(min(self._settings.drain_seconds, most))

    async def _start(self) -> None:
        settings = self._settings
        self.lifecycle.start()
        metrics_port = self._http.start(settings.metrics_host, settings.metrics_port)
        health_pb2_grpc.add_HealthServicer_to_server(self.lifecycle.health, self._server)
        self._hosted.register(self._server)
        names = (self._hosted.service_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        port = self._bind()
        await self._hosted.start(self.lifecycle)
        await self._server.start()
        self._watching = asyncio.create_task(self._watch())
        self.lifecycle.open()
        self.ports = Ports(port, metrics_port)
        _logger.info(
            "serving",
            extra={
                "service": self._hosted.service_name,
                "host": settings.host,
                "grpc_port": port,
                "metrics_port": metrics_port,
            },
        )
        if settings.ready_file is not None:
            _write_whole(settings.ready_file, json.dumps({"grpc_port": port, "metrics_port": metrics_port}))

    async def _watch(self) -> None:
        """Give up when grpc ends its server by itself: without this the process would live on, ready and deaf."""
        cause: BaseException = RuntimeError("grpc ended its server")
        try:
            await self._server.wait_for_termination()
        except Exception as error:
            cause = error
        if not self._stopping:
            self.lifecycle.fail(cause)

    def _bind(self) -> int:
        settings = self._settings
        address = bind_address(settings.host, settings.port)
        try:
            if settings.tls_certificate is not None and settings.tls_key is not None:
                files = TlsFiles(settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
                credentials = server_credentials(files, self._reload_metrics)
                return int(self._server.add_secure_port(address, credentials))
            return int(self._server.add_insecure_port(address))
        except RuntimeError as error:  # grpc's word for an address in use
            raise OSError(f"can't listen on {address}: {error}") from error

    async def _shut_down(self, drain_seconds: float) -> None:
        self._stopping = True
        self.lifecycle.close()
        await asyncio.sleep(min(_LINGER_SECONDS, drain_seconds))
        await self._hosted.drain()
        await self._server.stop(drain_seconds)
        if self._watching is not None:
            await self._watching
        await self._hosted.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)
        self._http.stop()
        self.lifecycle.stop()


async def serve(hosted: Hosted, settings: ServiceSettings, registry: CollectorRegistry) -> int:
    """Run a service until SIGTERM or SIGINT: NOT_SERVING -> drain -> return. A second signal exits at once.

    Returns the exit status: 0, or 1 when the service could not go on. One that is not alive and does not stop either
    ends with 1 as well.
    """
    told_to_stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if told_to_stop.is_set():
            os._exit(128 + number)
        _logger.info("stopping", extra={"signal": signal.Signals(number).name})
        told_to_stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with Server(hosted, settings, registry) as server:
        ends = [asyncio.ensure_future(event.wait()) for event in (told_to_stop, server.lifecycle.failed)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        if server.lifecycle.ailment():
            _exit_in_any_case(_ILL_EXIT_SECONDS)
    return int(server.lifecycle.failed.is_set())


def _tracing(settings: ServiceSettings, service_name: str) -> "Tracing | None":
    """What sends traces, where the settings say that they go; else OpenTelemetry is not even imported."""
    if not settings.tracing_endpoint:
        return None
    from service_runtime.open_telemetry import Tracing

    return Tracing(settings.tracing_endpoint, settings.tracing_sample_ratio, service_name)


def _exit_in_any_case(seconds: float) -> None:
    """End the process with status 1 after a while: what broke may never let its threads be joined."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def _write_whole(path: Path, text: str) -> None:
    """Write a file that no reader sees half of."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text, "utf-8")
    partial.replace(path)
