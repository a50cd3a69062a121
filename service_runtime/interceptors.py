"""The one interceptor: request id, the gate, timing, one log line, and errors into statuses.

Owns what happens around every call. Knows no service and no message.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import grpc
from grpc import aio

from service_runtime.errors import DeadlineExceeded, InvalidArgument, ServiceError
from service_runtime.gate import HEALTH_REQUEST_SECONDS, Gate, Visit
from service_runtime.limits import check_metadata
from service_runtime.rpc_metrics import RpcMetrics
from service_runtime.tracing import record_outcome

REQUEST_ID_KEY = "x-request-id"
"""Metadata that carries the id of a request, both ways."""

Context: TypeAlias = aio.ServicerContext[Any, Any]
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

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
    visit: Visit
    began: float
    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""


class CallInterceptor(aio.ServerInterceptor):
    """Wraps every handler of a server.

    grpc would read and decode the request before it calls a handler with a single request. Here every handler takes a
    stream of raw messages, so that nothing is read of a call that is not let in, a request that never comes has an end,
    and one that can't be decoded is answered as any other fault of a caller.
    """

    def __init__(self, metrics: RpcMetrics, gate: Gate, request_seconds: float) -> None:
        """``request_seconds`` is how long a single request may take to arrive."""
        self._metrics = metrics
        self._gate = gate
        self._request_seconds = request_seconds

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Called by grpc for each call before its handler."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # grpc answers UNIMPLEMENTED
        path = handler_call_details.method
        metadata = handler_call_details.invocation_metadata
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._streaming(handler, path, metadata), response_serializer=handler.response_serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            self._unary(handler, path, metadata), response_serializer=handler.response_serializer
        )

    def _unary(
        self, handler: grpc.RpcMethodHandler[Any, Any], path: str, metadata: Metadata
    ) -> Callable[..., Awaitable[Any]]:
        inner: Any = handler.stream_unary if handler.request_streaming else handler.unary_unary

        async def unary(_: Any, context: Context) -> Any:
            call = self._begin(path, metadata)
            try:
                # At the end, where it goes out with the answer: sent first it would cost as much as a small search.
                context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
                self._enter(call, metadata, context)
                request = await self._given(handler, call, context)
                return await inner(request, context)
            except BaseException as error:
                await _fail(call, error, context)
            finally:
                self._end(call)

        return unary

    def _streaming(
        self, handler: grpc.RpcMethodHandler[Any, Any], path: str, metadata: Metadata
    ) -> Callable[..., AsyncIterator[Any]]:
        inner: Any = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def streaming(_: Any, context: Context) -> AsyncIterator[Any]:
            call = self._begin(path, metadata)
            try:
                context.set_trailing_metadata(((REQUEST_ID_KEY, call.request_id),))
                self._enter(call, metadata, context)
                await context.send_initial_metadata(((REQUEST_ID_KEY, call.request_id),))
                answers = inner(await self._given(handler, call, context), context)
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

    async def _given(self, handler: grpc.RpcMethodHandler[Any, Any], call: _Call, context: Context) -> Any:
        """What the handler is given: its request once it is here, or the stream of its requests."""
        if handler.request_streaming:
            return self._requests(handler, call, context)
        seconds = min(self._request_seconds, HEALTH_REQUEST_SECONDS) if call.visit.healthy else self._request_seconds
        try:
            async with asyncio.timeout(seconds):
                raw = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not arrive within {seconds:g} s") from None
        if raw is aio.EOF:
            raise InvalidArgument("expected a request, not the end of the call")
        call.began = time.perf_counter()  # how fast a caller sends says nothing about this server
        return self._decoded(handler, call, context, raw)

    async def _requests(
        self, handler: grpc.RpcMethodHandler[Any, Any], call: _Call, context: Context
    ) -> AsyncIterator[Any]:
        while (raw := await context.read()) is not aio.EOF:
            self._gate.renew(call.visit)
            yield self._decoded(handler, call, context, raw)

    def _decoded(self, handler: grpc.RpcMethodHandler[Any, Any], call: _Call, context: Context, raw: bytes) -> Any:
        """The request of raw bytes, once the caller may make it."""
        decode = handler.request_deserializer
        try:
            request = raw if decode is None else decode(raw)
        except Exception as error:
            raise InvalidArgument(f"expected a request of {call.method}, not {len(raw):,} other bytes") from error
        self._gate.check(call.visit, request, lambda: _caller(call, context))
        return request

    def _begin(self, path: str, metadata: Metadata) -> _Call:
        service, _, method = path.lstrip("/").rpartition("/")
        texts = {key: value for key, value in metadata if isinstance(value, str)}
        given = texts.get(REQUEST_ID_KEY, "")
        request_id = given if _ACCEPTED_ID.fullmatch(given) else uuid.uuid4().hex
        _request_id.set(request_id)
        call = _Call(service, method, request_id, self._gate.visit(path, texts), time.perf_counter())
        self._metrics.in_flight.labels(service, method).inc()
        return call

    def _enter(self, call: _Call, metadata: Metadata, context: Context) -> None:
        """Let a call in, until its answer is sent: one that its caller does not take holds memory for as long."""
        check_metadata(metadata)
        self._gate.enter(call.visit)
        context.add_done_callback(lambda _: self._gate.leave(call.visit))  # type: ignore[arg-type]  # by place, not name

    def _end(self, call: _Call) -> None:
        seconds = time.perf_counter() - call.began
        self._metrics.in_flight.labels(call.service, call.method).dec()
        self._metrics.latency_seconds.labels(call.service, call.method, call.code.name).observe(
            seconds, exemplar={"request_id": call.request_id} if len(call.request_id) <= 100 else None
        )
        record_outcome(call.code.name, call.message, call.request_id)
        level = logging.INFO if call.code is grpc.StatusCode.OK else logging.WARNING
        extra: dict[str, Any] = {
            "request_id": call.request_id,
            "service": call.service,
            "method": call.method,
            "code": call.code.name,
            "seconds": round(seconds, 6),
        }
        if call.visit.grant.name:
            extra["token"] = call.visit.grant.name
        if call.message:
            extra["status_message"] = call.message
        _logger.log(level, "call", extra=extra)


def _caller(call: _Call, context: Context) -> dict[str, str]:
    """Who calls, as far as the connection tells."""
    caller = {"request_id": call.request_id, "peer": context.peer()}
    for name in context.auth_context().get("x509_common_name", ()):
        caller["certificate"] = name.decode("utf-8", "replace")
    return caller


async def _fail(call: _Call, error: BaseException, context: Context) -> NoReturn:
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
