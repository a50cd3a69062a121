"""A DNS server for tests: answers every question for an IPv4 address from a list that may change meanwhile.

It stands for the one of a Kubernetes cluster, where the name of a headless service has an address for each pod.
"""

import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address
from threading import Thread
from typing import Self

_HEADER = struct.Struct("!HHHHHH")
_ANSWER = struct.Struct("!HHHLH4s")
_TYPE_A = 1
_CLASS_INTERNET = 1
_RECURSIVE_ANSWER = 0x8180
_NAME_OF_THE_QUESTION = 0xC00C  # a pointer to the name at byte 12


class NameServer:
    """``with NameServer(["127.0.0.1"]) as names`` runs it on a free port of loopback; ``names.port`` says which."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = Thread(target=self._serve, name="dns", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closing:
            closing.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            question, asker = self._socket.recvfrom(4096)
            if not question:
                return
            self._socket.sendto(self._answer(question), asker)

    def _answer(self, message: bytes) -> bytes:
        number = _HEADER.unpack_from(message)[0]
        end = message.index(b"\0", _HEADER.size) + 5  # the name, its type and its class
        wanted_type = struct.unpack_from("!H", message, end - 4)[0]
        packed = [IPv4Address(address).packed for address in self.addresses] if wanted_type == _TYPE_A else []
        answers = [_ANSWER.pack(_NAME_OF_THE_QUESTION, _TYPE_A, _CLASS_INTERNET, 0, 4, address) for address in packed]
        header = _HEADER.pack(number, _RECURSIVE_ANSWER, 1, len(answers), 0, 0)
        return header + message[_HEADER.size : end] + b"".join(answers)
