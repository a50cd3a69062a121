"""One face for both clients, so that each behaviour is one test run twice; pictures; and a network that can fail."""

import asyncio
import colorsys
import inspect
import io
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from eyebright_client import AsyncClient
from PIL import Image as Pillow
from PIL import ImageDraw


class BlockingAsyncClient:
    """An AsyncClient that is called like a Client: each call runs an event loop until its answer is there."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncClient(*arguments, **keywords)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def blocking(*arguments: Any, **keywords: Any) -> Any:
            answer = method(*arguments, **keywords)
            return self._runner.run(_collected(answer) if inspect.isasyncgen(answer) else answer)

        return blocking

    def __enter__(self) -> "BlockingAsyncClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()


async def _collected(generator: Any) -> list[Any]:
    return [item async for item in generator]


def picture(number: int, side: int = 72) -> Pillow.Image:
    """A picture of its own for every number below 1,000: a disc, square or triangle in some hue at some place."""
    image = Pillow.new("RGB", (side, side), "white")
    red, green, blue = colorsys.hsv_to_rgb((number * 0.618) % 1.0, 1.0, 0.9)
    left, top, size = 4 + number % 7 * 3, 4 + number // 7 % 5 * 4, 30 + number % 11
    box = (left, top, left + size, top + size)
    draw = ImageDraw.Draw(image)
    fill = (int(255 * red), int(255 * green), int(255 * blue))
    if number % 3 == 0:
        draw.ellipse(box, fill=fill)
    elif number % 3 == 1:
        draw.rectangle(box, fill=fill)
    else:
        draw.polygon([(box[0], box[3]), (box[2], box[3]), ((box[0] + box[2]) // 2, box[1])], fill=fill)
    return image


def png(image: Pillow.Image) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Network:
    """A TCP connection between client and service that can be cut, or go silent. ``address`` is what a client dials."""

    def __init__(self, target: str) -> None:
        host, _, port = target.partition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self) -> None:
        """From now on nothing arrives, in either direction, and nobody is told."""
        self._flowing.clear()

    def cut(self) -> None:
        """Reset all connections; new ones may be made."""
        for one in list(self._sockets):
            _shut(one)

    def close(self) -> None:
        """End everything."""
        _shut(self._listener)
        self._listener.close()
        self._flowing.set()
        for one in self._sockets:
            _shut(one)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(self._target)
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):  # whoever ends one side ends both
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):  # it may be shut already, from the other side
        one.shutdown(socket.SHUT_RDWR)
