"""The plain HTTP port: /metrics, /livez and /readyz.

Owns what Prometheus and Kubernetes read. Runs in a thread of its own, so that it answers while the event loop is busy.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from service_runtime.lifecycle import Lifecycle

_UNAVAILABLE = "503 Service Unavailable"

_REQUEST_SECONDS = 10.0
"""How long a connection may last, from its first byte to its last: probes take milliseconds."""

_MOST_CONNECTIONS = 64
"""Past this the oldest one makes room, so that a crowd of silent ones keeps no probe out."""

_logger = logging.getLogger("eyebright.http")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # of 5, as it was, a crowd leaves a probe to TCP's retries

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._open: dict[socket.socket, float] = {}
        """When each connection began, the oldest first."""
        self._lock = Lock()
        super().__init__(*arguments, **keywords)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Answer in a thread, and make room for it."""
        with self._lock:
            crowd = list(self._open)[: max(0, len(self._open) + 1 - _MOST_CONNECTIONS)]
            self._open[request] = time.monotonic()
        _hang_up(crowd)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        """The connection has ended."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called between connections, ten times a second: end those that have lasted too long."""
        latest = time.monotonic() - _REQUEST_SECONDS
        with self._lock:
            overdue = [own for own, began in self._open.items() if began < latest]
        _hang_up(overdue)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        """Log rather than print: a probe may hang up at any moment."""
        _logger.info("an HTTP request broke off", extra={"client": str(client_address)}, exc_info=True)


def _hang_up(connections: Iterable[socket.socket]) -> None:
    """End connections under the hands of the threads that read from them or write to them."""
    for own in connections:
        with suppress(OSError):  # ended by itself meanwhile
            own.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: probes come every few seconds."""


class HttpEndpoint:
    """Serves the metrics of a registry and answers probes."""

    def __init__(self, registry: CollectorRegistry, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._metrics = make_wsgi_app(registry)
        self._server: WSGIServer | None = None

    def start(self, host: str, port: int) -> int:
        """Listen; returns the port taken. Raises OSError when the address is in use."""
        try:
            self._server = make_server(host, port, self._answer, _Server, _Handler)
        except OSError as error:
            raise OSError(f"can't listen on {host}:{port}: {error}") from error
        Thread(target=self._server.serve_forever, args=(0.1,), name="metrics-http", daemon=True).start()
        return self._server.server_port

    def stop(self) -> None:
        """Stop listening; harmless when not started."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _answer(self, environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/metrics":
            return self._metrics(environ, start_response)  # type: ignore[no-any-return]
        status, text = self._probed(str(path))
        body = text.encode()
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [body]

    def _probed(self, path: str) -> tuple[str, str]:
        """(status, body) of a probe."""
        if path == "/livez":
            trouble, fine = self._lifecycle.ailment(), "alive"
        elif path == "/readyz":
            trouble, fine = self._lifecycle.obstacle(), "ready"
        else:
            return "404 Not Found", "try /metrics, /livez or /readyz\n"
        return (_UNAVAILABLE, f"not {fine}: {trouble}\n") if trouble else ("200 OK", f"{fine}\n")
