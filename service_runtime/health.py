"""grpc.health.v1 of one service.

Owns the status that callers ask for and watch. grpcio-health-checking has a servicer too; its watchers are forgotten
once another one leaves, and one that reads slowly keeps the status from changing.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service_runtime.errors import NotFound

_Status: TypeAlias = health_pb2.HealthCheckResponse
_Context: TypeAlias = aio.ServicerContext[Any, Any]


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # untyped
    """Says the same of the server ("") and of its service. Belongs to one event loop."""

    def __init__(self, service_name: str) -> None:
        self._names = ("", service_name)
        self._serving = False
        self._closed = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Answer SERVING or NOT_SERVING from now on, and tell those who watch."""
        self._serving = serving
        self._wake()

    def close(self) -> None:
        """NOT_SERVING for good; those who watch are told and their calls end, so that no drain waits for them."""
        self._serving, self._closed = False, True
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _status(self, name: str) -> int:
        if name not in self._names:
            return int(_Status.SERVICE_UNKNOWN)
        return int(_Status.SERVING if self._serving and not self._closed else _Status.NOT_SERVING)

    async def Check(self, request: health_pb2.HealthCheckRequest, context: _Context) -> _Status:  # noqa: ARG002
        """The status now. Raises NotFound for another service."""
        if request.service not in self._names:
            raise NotFound(f"expected '' or {self._names[1]!r}, not {request.service!r}", field="service")
        return _Status(status=self._status(request.service))

    async def Watch(
        self,
        request: health_pb2.HealthCheckRequest,
        context: _Context,  # noqa: ARG002
    ) -> AsyncIterator[_Status]:
        """The status now, and whenever it changes."""
        told = None
        while True:
            changed, status = self._changed, self._status(request.service)
            if status != told:
                yield _Status(status=status)
                told = status
            if self._closed:
                return
            await changed.wait()
