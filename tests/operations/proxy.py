"""A TCP proxy between client and service: it delays, it counts how many calls reach the service, and it keeps its
address while the service is started again elsewhere.
"""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self

_PREFACE_BYTES = 24
_HEADER_BYTES = 9
_HEADERS_FRAME = 1


class HeadersCounter:
    """Counts HEADERS frames in what an HTTP/2 client sends. A gRPC client sends one for each attempt at a call."""

    def __init__(self) -> None:
        self.count = 0
        self._skip = _PREFACE_BYTES
        self._header = b""

    def feed(self, data: bytes) -> None:
        """The next bytes of the connection."""
        while data:
            if self._skip:
                passed = min(self._skip, len(data))
                self._skip -= passed
                data = data[passed:]
                continue
            missing = _HEADER_BYTES - len(self._header)
            self._header += data[:missing]
            data = data[missing:]
            if len(self._header) == _HEADER_BYTES:
                self.count += self._header[3] == _HEADERS_FRAME
                self._skip = int.from_bytes(self._header[:3])
                self._header = b""


class Proxy:
    """``with Proxy(target) as proxy``: a client dials ``proxy.address``; ``proxy.target`` may change meanwhile."""

    def __init__(self, target: str, delay_seconds: float = 0.0) -> None:
        """``delay_seconds`` is added to each direction."""
        self.target = target
        self.delay_seconds = delay_seconds
        self.attempts = 0
        """Calls that were passed on to the service, each attempt counted."""
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._directions: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _close(self) -> None:
        self._server.close()
        for direction in self._directions:
            direction.cancel()
        while self._directions:
            await asyncio.sleep(0.001)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, _, port = self.target.rpartition(":")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # nobody is there
            writer.transport.abort()
            return
        try:
            ways = [self._pass_on(reader, far_writer, HeadersCounter()), self._pass_on(far_reader, writer, None)]
            directions = [asyncio.create_task(way) for way in ways]
            self._directions.update(directions)
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
            self._directions.difference_update(directions)
        finally:
            for one in (writer, far_writer):
                one.transport.abort()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: HeadersCounter | None
    ) -> None:
        """Pass on what comes, in its order, each piece when its time has come; returns when either side ends."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1_000)

        async def send() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - self._loop.time())
                if counter is not None:
                    before = counter.count
                    counter.feed(data)
                    self.attempts += counter.count - before
                writer.write(data)
                await writer.drain()

        sending = asyncio.create_task(send())
        try:
            with suppress(OSError):
                while not sending.done() and (data := await reader.read(65_536)):
                    await waiting.put((self._loop.time() + self.delay_seconds, data))
            while not sending.done() and not waiting.empty():  # what a server says last must arrive
                await asyncio.sleep(0.001)
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await sending
