"""The one interceptor: request id, token, timing, one log line, and errors into statuses.

Owns what happens around every call. Knows no service and no message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc import aio

from service_runtime.auth import BearerToken
from service_runtime.errors import ServiceError
from service_runtime.rpc_metrics import RpcMetrics

REQUEST_ID_KEY = "x-request-id"
"""Metadata that carries the id of a request, both ways."""

_logger = logging.getLogger("eyebright.rpc")
_ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")
_request_id: ContextVar[str] = ContextVar("eyebright_request_id", default="")


def current_request_id() -> str:
    """Id of the request being answered; empty outside one."""
    return _request_id.get()


@dataclass(slots=True)
class _Call:
    """One call from its arrival to its end."""

    service: str
    method: str
    request_id: str
    began: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


class CallInterceptor(aio.ServerInterceptor):
    """Wraps every handler of a server."""

    def __init__(self, metrics: RpcMetrics, token: BearerToken | None = None) -> None:
        self._metrics = metrics
        self._token = token

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each call before its handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # grpc answers UNIMPLEMENTED
        path = handler_call_details.method
        metadata = {key: value for key, value in handler_call_details.invocation_metadata if isinstance(value, str)}
        return _rewrapped(handler, lambda inner, streams: self._wrap(inner, streams, path, metadata))

    def _wrap(
        self, inner: Callable[..., Any], streams: bool, path: str, metadata: dict[str, str]
    ) -> Callable[..., Any]:
        if streams:

            async def streaming(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
                call = self._begin(path, metadata)
                try:
                    await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                    self._authenticate(path, metadata)
                    answers = inner(request, context)
                    if isinstance(answers, Awaitable):
                        await answers  # a handler that writes to the context itself
                        return
                    async for response in answers:
                        yield response
                except BaseException as error:
                    await _fail(call, error, context)
                finally:
                    self._end(call)

            return streaming

        async def unary(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            call = self._begin(path, metadata)
            try:
                # At the end, where it goes out with the answer: sent first it would cost as much as a small search.
                context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
                self._authenticate(path, metadata)
                return await inner(request, context)
            except BaseException as error:
                await _fail(call, error, context)
            finally:
                self._end(call)

        return unary

    def _authenticate(self, path: str, metadata: dict[str, str]) -> None:
        if self._token is not None:
            self._token.check(path, metadata)

    def _begin(self, path: str, metadata: dict[str, str]) -> _Call:
        service, _, method = path.lstrip("/").rpartition("/")
        given = metadata.get(REQUEST_ID_KEY, "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        _request_id.set(request_id)
        call = _Call(service, method, request_id, time.perf_counter())
        self._metrics.in_flight.labels(service, method).inc()
        return call

    def _end(self, call: _Call) -> None:
        seconds = time.perf_counter() - call.began
        self._metrics.in_flight.labels(call.service, call.method).dec()
        self._metrics.latency_seconds.labels(call.service, call.method, call.code.name).observe(
            seconds, exemplar={"request_id": call.request_id} if len(call.request_id) <= 100 else None
        )
        level = logging.INFO if call.code is grpc.StatusCode.OK else logging.WARNING
        extra: dict[str, Any] = {
            "request_id": call.request_id,
            "service": call.service,
            "method": call.method,
            "code": call.code.name,
            "seconds": round(seconds, 6),
        }
        if call.message:
            extra["status_message"] = call.message
        _logger.log(level, "call", extra=extra)


def _rewrapped(
    handler: grpc.RpcMethodHandler[Any, Any], wrap: Callable[[Callable[..., Any], bool], Callable[..., Any]]
) -> grpc.RpcMethodHandler[Any, Any]:
    """The same kind of handler around another behaviour."""
    makers: dict[tuple[bool, bool], tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], Any]] = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }
    make, inner = makers[handler.request_streaming, handler.response_streaming]
    return make(
        wrap(inner, handler.response_streaming),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


async def _fail(call: _Call, error: BaseException, context: aio.ServicerContext[Any, Any]) -> NoReturn:
    """Answer an error with its status. Returns never: grpc ends the call by raising."""
    if isinstance(error, ServiceError):
        call.code, call.message = error.code, error.message
        await context.abort(error.code, error.message, (*context.trailing_metadata(), *error.trailing_metadata()))
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        call.code = grpc.StatusCode.CANCELLED
        raise error
    if isinstance(error, aio.AbortError):
        call.code = context.code() or grpc.StatusCode.UNKNOWN
        raise error
    call.code = grpc.StatusCode.INTERNAL
    call.message = f"internal error, request ID {call.request_id}"
    _logger.error("unexpected error", exc_info=error, extra={"request_id": call.request_id})
    await context.abort(call.code, call.message)
    raise AssertionError("abort returned")
