"""HTTP/2 written by hand, for peers that a well-made gRPC client can't play.

Owns just enough of the protocol to open calls, to leave them half sent, and to read what comes back.
"""

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x9
END_STREAM, END_HEADERS = 0x1, 0x4

_FRAME_BYTES = 16_384
"""Most that a peer takes in one frame, unless it says otherwise."""

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it came."""

    kind: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as it is sent."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request_headers(path: bytes, extra: Sequence[Header] = ()) -> bytes:
    """The header block of a call, every header spelt out."""
    headers = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *extra,
    ]
    return b"".join(header(name, value) for name, value in headers)


def header(name: bytes, value: bytes, *, remembered: bool = False) -> bytes:
    """One header spelt out; a remembered one can be said again by its place in the peer's table."""
    return (b"\x40" if remembered else b"\0") + _string(name) + _string(value)


LAST_REMEMBERED = b"\xbe"
"""The header that was remembered last, in a single byte."""


def message(body: bytes, *, declared_bytes: int | None = None, compressed: bool = False) -> bytes:
    """A gRPC message with its length before it, which may be a lie."""
    return struct.pack(">BI", compressed, len(body) if declared_bytes is None else declared_bytes) + body


def _string(value: bytes) -> bytes:
    length, prefix = len(value), bytearray()
    if length < 127:
        prefix.append(length)
    else:
        prefix.append(127)
        length -= 127
        while length >= 128:
            prefix.append(length % 128 + 128)
            length //= 128
        prefix.append(length)
    return bytes(prefix) + value


class Connection:
    """A connection after both greetings."""

    def __init__(self, opened: socket.socket, timeout_seconds: float = 20.0) -> None:
        self._socket = opened
        self._socket.settimeout(timeout_seconds)
        self._buffer = b""
        self._next_stream = 1
        self.send(_PREFACE + frame(SETTINGS, 0, 0))

    def send(self, content: bytes) -> None:
        """Send as it is."""
        self._socket.sendall(content)

    def patience(self, seconds: float) -> None:
        """How long to wait for bytes from now on."""
        self._socket.settimeout(seconds)

    def call(self, path: str, body: bytes = b"", extra: Sequence[Header] = (), *, end: bool = False) -> int:
        """Open a call and send the beginning of its body; its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self.send(frame(HEADERS, END_HEADERS, stream, request_headers(path.encode(), extra)))
        for at in range(0, len(body), _FRAME_BYTES):
            self.send(frame(DATA, 0, stream, body[at : at + _FRAME_BYTES]))
        if end:
            self.send(frame(DATA, END_STREAM, stream))
        return stream

    def frames(self) -> Iterator[Frame]:
        """What comes, until the peer hangs up. Raises TimeoutError when nothing comes any more."""
        while True:
            head = self._take(9)
            if head is None:
                return
            payload = self._take(int.from_bytes(head[:3], "big"))
            if payload is None:
                return
            yield Frame(head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload)

    def end_of(self, stream: int) -> bytes:
        """The header blocks of an answer up to its end, as they came; empty when the peer hangs up first."""
        blocks = b""
        for own in self.frames():
            if own.stream == stream and own.kind in (HEADERS, CONTINUATION):
                blocks += own.payload
            if own.stream == stream and (own.kind == RST_STREAM or own.flags & END_STREAM):
                return blocks
        return b""

    def hang_up(self) -> list[Frame]:
        """All that comes until the peer hangs up."""
        try:
            return list(self.frames())
        except ConnectionError:
            return []

    def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            more = self._socket.recv(65_536)
            if not more:
                return None
            self._buffer += more
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@contextmanager
def connected(address: str) -> Iterator[Connection]:
    """A connection to ``host:port``."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), 20) as opened:
        yield Connection(opened)
