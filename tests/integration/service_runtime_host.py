"""A small service of its own, hosted as every service is: echoes, fails on request, streams, takes its time."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import grpc
from grpc import aio
from prometheus_client import CollectorRegistry

from service_runtime import server as server_module
from service_runtime.access import Access, Scope
from service_runtime.errors import InvalidArgument
from service_runtime.lifecycle import Lifecycle
from service_runtime.logging import configure_logging
from service_runtime.server import serve
from service_runtime.settings import ServiceSettings

Context = Any


ACCESS: Mapping[str, Access] = {
    "Echo": Access(Scope.READ, lambda request: request.decode("utf-8", "replace")),
    "EchoStream": Access(Scope.WRITE, lambda request: request.decode("utf-8", "replace")),
    "Refuse": Access(Scope.READ),
    "Break": Access(Scope.ADMIN),
    "Everything": Access(Scope.ADMIN, lambda request: request.decode(), every_collection=True),
}


class EchoHost:
    """Messages are plain bytes."""

    service_name = "test.Echo"
    access = ACCESS

    def __init__(self) -> None:
        self.started = False
        self.stopped = False
        self.ill = ""
        self.released = threading.Event()
        """Ends what stands still: the event loop in Block, and stop() after Wedge."""
        self.released.set()
        self._lifecycle: Lifecycle | None = None

    def register(self, server: aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "EchoStream": grpc.stream_stream_rpc_method_handler(self.echo_stream),
            "Refuse": grpc.unary_unary_rpc_method_handler(self.refuse),
            "Break": grpc.unary_unary_rpc_method_handler(self.break_down),
            "Everything": grpc.unary_unary_rpc_method_handler(self.echo),
            "Undeclared": grpc.unary_unary_rpc_method_handler(self.echo),
            "Block": grpc.unary_unary_rpc_method_handler(self.block),
            "GiveUp": grpc.unary_unary_rpc_method_handler(self.give_up),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.service_name, handlers),))

    async def start(self, lifecycle: Lifecycle) -> None:
        self.started = True
        self._lifecycle = lifecycle

    def ailment(self) -> str:
        return self.ill

    async def drain(self) -> None:
        """Nothing goes on for long."""

    async def stop(self) -> None:
        await asyncio.to_thread(self.released.wait)
        self.stopped = True

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def echo_stream(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            if request == b"refuse":
                raise InvalidArgument("expected anything else, not refuse", field="request")
            if request.startswith(b"sleep "):
                await asyncio.sleep(float(request.removeprefix(b"sleep ")))
            yield request

    async def refuse(self, request: bytes, context: Context) -> bytes:
        raise InvalidArgument(f"expected at most 3 bytes, not {len(request)}", field="request")

    async def break_down(self, request: bytes, context: Context) -> bytes:
        raise RuntimeError(f"a secret: {request!r}")

    async def block(self, request: bytes, context: Context) -> bytes:
        """The event loop stands still until ``released`` is set."""
        self.released.wait()
        return request

    async def give_up(self, request: bytes, context: Context) -> bytes:
        """What broke is named by the request; "wedged" never lets the service stop, "hangs" merely says so."""
        if request in (b"wedged", b"hangs"):
            self.released.clear()
        if request == b"hangs":
            self.ill = "a thread hangs"
            return request
        assert self._lifecycle is not None
        for _ in range(2):
            self._lifecycle.fail(RuntimeError(request.decode()))
        return request


if __name__ == "__main__":
    configure_logging("info")
    server_module._ILL_EXIT_SECONDS = 3.0
    settings = ServiceSettings(ready_file=Path(sys.argv[1]), drain_seconds=float(sys.argv[2]))
    sys.exit(asyncio.run(serve(EchoHost(), settings, CollectorRegistry())))
