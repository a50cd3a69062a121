"""A network between client and service that loses, resets and parts: a namespace, a pair of interfaces, iptables.

Needs root, and iproute2 and iptables, which `make test-operations` installs on Debian.
"""

import itertools
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Self

_numbers = itertools.count()


@cache
def missing() -> str:
    """Why this machine can't have such a network; empty where it can."""
    if not hasattr(os, "geteuid") or os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "iptables"):
        if shutil.which(program) is None:
            return f"{program} is missing (Debian: apt-get install iproute2 iptables)"
    try:
        with Network() as network, network.loss(0.5):
            return ""
    except subprocess.CalledProcessError as error:
        return f"this kernel can't: {' '.join(error.cmd)}: {error.stderr.strip()}"


class Network:
    """``with Network() as network``: what runs ``network.within`` is reached at ``network.host``, from here alone."""

    def __init__(self) -> None:
        self._name = f"eye{os.getpid()}x{next(_numbers)}"
        here, there = f"{self._name[-12:]}a", f"{self._name[-12:]}b"
        subnet = f"10.{random.randrange(200, 255)}.{random.randrange(256)}"
        self.host = f"{subnet}.2"
        self.within = ("ip", "netns", "exec", self._name)
        self._commands = (
            f"ip link add {here} type veth peer name {there} netns {self._name}",
            f"ip addr add {subnet}.1/30 dev {here}",
            f"ip link set {here} up",
            f"ip -n {self._name} addr add {self.host}/30 dev {there}",
            f"ip -n {self._name} link set {there} up",
            f"ip -n {self._name} link set lo up",
        )
        self._undoing = ExitStack()
        self.hit = 0
        """Packets that a fault has met so far."""

    def __enter__(self) -> Self:
        _run(f"ip netns add {self._name}")
        self._undoing.callback(_run, f"ip netns delete {self._name}")  # takes the interfaces with it
        try:
            for command in self._commands:
                _run(command)
        except BaseException:
            self._undoing.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undoing.close()

    @contextmanager
    def loss(self, share: float) -> Iterator[None]:
        """Each packet is lost with this probability, in both directions."""
        rule = f"-m statistic --mode random --probability {share} -j DROP"
        with self._rule("INPUT", rule), self._rule("OUTPUT", rule):
            yield

    @contextmanager
    def resets(self) -> Iterator[None]:
        """Whoever sends to the service has its connection reset."""
        with self._rule("INPUT", "-p tcp -j REJECT --reject-with tcp-reset"):
            yield

    @contextmanager
    def partition(self) -> Iterator[None]:
        """Nothing arrives, in either direction, and nobody is told."""
        with self._rule("INPUT", "-j DROP"), self._rule("OUTPUT", "-j DROP"):
            yield

    @contextmanager
    def _rule(self, chain: str, rule: str) -> Iterator[None]:
        inside = " ".join(self.within)
        _run(f"{inside} iptables -w -A {chain} {rule}")
        try:
            yield
        finally:
            counters = _run(f"{inside} iptables -w -L {chain} -v -n -x").splitlines()[2:]
            self.hit += sum(int(line.split()[0]) for line in counters)
            _run(f"{inside} iptables -w -D {chain} {rule}")


def _run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout
