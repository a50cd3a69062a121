"""Performs the steps of operations: with blocking calls, or in an event loop.

Owns channels, streams and their ends. Every gRPC error becomes a CallError here; nothing is decided here.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TypeVar

import grpc

from eyebright_client._calls import (
    Call,
    Finish,
    Message,
    OpenServerStream,
    OpenStream,
    Operation,
    Receive,
    Send,
    Service,
    Sleep,
    Step,
    Work,
)
from eyebright_client._connection import TLS, call_metadata, channel_options, checked_token
from eyebright_client._exceptions import CallError, ClientClosed, DeadlineExceeded, Unavailable
from eyebright_client._messages import STUBS
from eyebright_client._statuses import read_call_error

Result = TypeVar("Result")
Stubs = dict[Service, Any]

_FINISH_SECONDS = 5.0

_LOST_STATUS = "Internal error from Core"
"""What grpc.aio puts in place of the server's status when the stream ended while a message was being written
(https://github.com/grpc/grpc/issues/36066)."""


def _check_open(closed: bool) -> None:
    if closed:
        raise ClientClosed("the client is closed")


def _silent(step: OpenStream | OpenServerStream, seconds: float) -> DeadlineExceeded:
    return DeadlineExceeded(f"{step.method}: no answer within {round(seconds, 2):g} s", request_id=step.request_id)


def _ended(step: OpenStream | OpenServerStream) -> Unavailable:
    return Unavailable(f"{step.method}: the server ended the stream early", request_id=step.request_id)


@dataclass(slots=True)
class _Stream:
    """A streamed call with the queue that feeds it, if it is bidirectional; None in the queue ends it."""

    step: OpenStream | OpenServerStream
    call: Any
    queue: Any
    expired: bool = field(default=False)

    def expire(self) -> None:
        """End the call because its answer is late."""
        self.expired = True
        self.call.cancel()

    def close(self) -> None:
        """End the call, and release what waits on the queue."""
        self.queue.put_nowait(None) if isinstance(self.queue, asyncio.Queue) else self.queue.put(None)
        self.call.cancel()


class Transport:
    """Blocking calls. May be shared between threads: each operation has its own streams."""

    def __init__(self, addresses: Mapping[Service, str], tls: TLS | None, token: str | None) -> None:
        self._token = checked_token(token)
        self._closed = False
        options = channel_options(tls)
        self._channels = {
            service: grpc.insecure_channel(address, options)
            if tls is None
            else grpc.secure_channel(address, tls.credentials(), options)
            for service, address in addresses.items()
        }
        self._stubs: Stubs = {service: STUBS[service](channel) for service, channel in self._channels.items()}

    def close(self) -> None:
        """Close the connections; calls in flight end with Cancelled."""
        self._closed = True
        for channel in self._channels.values():
            channel.close()

    def run(self, operation: Operation[Result]) -> Result:
        """Perform an operation to its end."""
        streams: list[_Stream] = []
        try:
            _check_open(self._closed)
            step = next(operation)
            while True:
                _check_open(self._closed)
                try:
                    answer = self._perform(step, streams)
                except CallError as error:
                    step = operation.throw(error)
                except Exception as error:
                    if self._closed:  # what grpc says of a closed channel differs between sync and async
                        raise ClientClosed("the client is closed") from error
                    raise
                else:
                    step = operation.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        finally:
            operation.close()
            for stream in streams:
                stream.close()

    def _perform(self, step: Step, streams: list[_Stream]) -> Message | None:
        match step:
            case Call():
                return self._call(step)
            case OpenStream() | OpenServerStream():
                stream = self._open(step)
                streams.append(stream)
                return stream
            case Send(stream, request):
                stream.queue.put(request)
                return None
            case Receive(stream, seconds):
                return self._receive(stream, seconds)
            case Finish(stream):
                self._finish(stream)
                return None
            case Sleep(seconds):
                time.sleep(seconds)
                return None
            case Work(function):
                return function()

    def _call(self, step: Call) -> Message:
        try:
            return getattr(self._stubs[step.service], step.method)(
                step.request,
                timeout=step.timeout_seconds,
                metadata=call_metadata(step.request_id, self._token, step.trace),
                wait_for_ready=step.wait_for_ready,
            )
        except grpc.RpcError as error:
            raise read_call_error(error, step.method, step.timeout_seconds, step.request_id) from error

    def _open(self, step: OpenStream | OpenServerStream) -> _Stream:
        queue: SimpleQueue[Any] = SimpleQueue()
        requests: Iterator[Any] = iter(queue.get, None)
        given = step.request if isinstance(step, OpenServerStream) else requests
        method = getattr(self._stubs[step.service], step.method)
        return _Stream(step, method(given, metadata=call_metadata(step.request_id, self._token, step.trace)), queue)

    def _receive(self, stream: _Stream, seconds: float) -> Message:
        timer = threading.Timer(seconds, stream.expire)  # a blocking stream takes no timeout for one message
        timer.daemon = True
        timer.start()
        try:
            return next(stream.call)
        except StopIteration:
            raise _ended(stream.step) from None
        except grpc.RpcError as error:
            stream.close()
            if stream.expired:
                raise _silent(stream.step, seconds) from error
            raise read_call_error(error, stream.step.method, seconds, stream.step.request_id) from error
        finally:
            timer.cancel()

    def _finish(self, stream: _Stream) -> None:
        stream.queue.put(None)
        with suppress(CallError):  # every answer is here; how the server ends the call changes nothing
            self._receive(stream, _FINISH_SECONDS)


class AsyncTransport:
    """Calls in an event loop. May be shared between tasks of one loop: each operation has its own streams."""

    def __init__(self, addresses: Mapping[Service, str], tls: TLS | None, token: str | None) -> None:
        self._addresses = addresses
        self._tls = tls
        self._token = checked_token(token)
        self._closed = False
        self._channels: list[grpc.aio.Channel] = []
        self._made: Stubs = {}

    async def close(self) -> None:
        """Close the connections; calls in flight end with Cancelled."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    def _stubs(self) -> Stubs:
        """Made at the first call: a channel belongs to the event loop that runs when it is made."""
        if not self._made:
            options = channel_options(self._tls)
            for service, address in self._addresses.items():
                channel = (
                    grpc.aio.insecure_channel(address, options)
                    if self._tls is None
                    else grpc.aio.secure_channel(address, self._tls.credentials(), options)
                )
                self._channels.append(channel)
                self._made[service] = STUBS[service](channel)
        return self._made

    async def run(self, operation: Operation[Result]) -> Result:
        """Perform an operation to its end."""
        streams: list[_Stream] = []
        try:
            _check_open(self._closed)
            step = next(operation)
            while True:
                _check_open(self._closed)
                try:
                    answer = await self._perform(step, streams)
                except CallError as error:
                    step = operation.throw(error)
                except Exception as error:
                    if self._closed:  # what grpc says of a closed channel differs between sync and async
                        raise ClientClosed("the client is closed") from error
                    raise
                else:
                    step = operation.send(answer)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        finally:
            operation.close()
            for stream in streams:
                stream.close()

    async def _perform(self, step: Step, streams: list[_Stream]) -> Message | None:
        match step:
            case Call():
                return await self._call(step)
            case OpenStream() | OpenServerStream():
                stream = self._open(step)
                streams.append(stream)
                return stream
            case Send(stream, request):
                stream.queue.put_nowait(request)
                return None
            case Receive(stream, seconds):
                return await self._receive(stream, seconds)
            case Finish(stream):
                await self._finish(stream)
                return None
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                return None
            case Work(function):
                return await asyncio.to_thread(function)

    async def _call(self, step: Call) -> Message:
        try:
            return await getattr(self._stubs()[step.service], step.method)(
                step.request,
                timeout=step.timeout_seconds,
                metadata=call_metadata(step.request_id, self._token, step.trace),
                wait_for_ready=step.wait_for_ready,
            )
        except grpc.aio.AioRpcError as error:
            raise read_call_error(error, step.method, step.timeout_seconds, step.request_id) from error

    def _open(self, step: OpenStream | OpenServerStream) -> _Stream:
        queue: asyncio.Queue[Any] = asyncio.Queue()

        async def requests() -> AsyncIterator[Any]:
            while (request := await queue.get()) is not None:
                yield request

        given = step.request if isinstance(step, OpenServerStream) else requests()
        method = getattr(self._stubs()[step.service], step.method)
        return _Stream(step, method(given, metadata=call_metadata(step.request_id, self._token, step.trace)), queue)

    async def _receive(self, stream: _Stream, seconds: float) -> Message:
        try:
            response = await asyncio.wait_for(stream.call.read(), seconds)
        except TimeoutError as error:
            stream.close()
            raise _silent(stream.step, seconds) from error
        except grpc.aio.AioRpcError as error:
            stream.close()
            if error.details() == _LOST_STATUS:
                raise Unavailable(
                    f"{stream.step.method}: the stream ended while sending", request_id=stream.step.request_id
                ) from error
            raise read_call_error(error, stream.step.method, seconds, stream.step.request_id) from error
        if response is grpc.aio.EOF:
            raise _ended(stream.step)
        return response

    async def _finish(self, stream: _Stream) -> None:
        stream.queue.put_nowait(None)
        with suppress(CallError):  # every answer is here; how the server ends the call changes nothing
            await self._receive(stream, _FINISH_SECONDS)
