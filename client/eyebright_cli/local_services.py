"""Both services as child processes on loopback: the embedded way to run Eyebright.

Owns starting, watching and stopping them, their ports, logs and data folder. Does not print and does not read options.
Each child has a session of its own, so that a terminal's Ctrl-C reaches this process alone, which then stops them. On
Linux the kernel stops them too when this process is killed.
"""

import ctypes
import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn, Self

from eyebright_cli.errors import MissingExtraError, PortInUseError, ServiceDiedError

HOST = "127.0.0.1"

START_SECONDS = 900.0
"""Longest start of a service, in seconds: a model of the hub may have to be fetched first."""

STOP_SECONDS = 30.0
"""How long a service may take to end after SIGTERM, in seconds: its drain of 20 s and some more. Then it is killed."""

_LIBRARIES = {
    "embedder_service": ("torch", "transformers", "PIL", "pydantic_settings", "prometheus_client", "grpc_health"),
    "index_service": ("faiss", "pydantic_settings", "prometheus_client", "grpc_health"),
}
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.2
_LOG_TAIL_LINES = 12
_LOG_TAIL_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class LocalPorts:
    """TCP ports of both services; 0 takes a free one."""

    embedder: int = 0
    embedder_metrics: int = 0
    index: int = 0
    index_metrics: int = 0


class LocalServices:
    """Both services. ``with LocalServices(folder) as services`` starts them, waits until they answer, and stops them.

    ``model`` is what the embedder serves. ``waiting`` is called again and again while they start, with the name of a
    service that is not ready yet. Entering raises MissingExtraError, PortInUseError or ServiceDiedError, and leaves
    nothing running then. The thread that enters must live as long as the services.
    """

    def __init__(
        self,
        data_folder: Path,
        *,
        model: str = "demo",
        ports: LocalPorts = LocalPorts(),
        waiting: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.data_folder = data_folder.absolute()
        self._waiting = waiting
        logs = self.data_folder / "logs"
        self.embedder = LocalService("embedder", logs, ports.embedder, ports.embedder_metrics, ("--model", model))
        snapshots = json.dumps([str(self.data_folder / "snapshots")])
        store = ("--data-folder", str(self.data_folder / "index"), "--snapshot-urls", snapshots)
        self.index = LocalService("index", logs, ports.index, ports.index_metrics, store)

    def __enter__(self) -> Self:
        for service in self._services:
            service.check()
        try:
            self.data_folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".starting-", dir=self.data_folder) as ready_folder:
                for service in self._services:
                    service.start(Path(ready_folder))
                self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self) -> NoReturn:
        """Wait until a service ends by itself, then raise ServiceDiedError."""
        while True:
            self._check_alive()
            time.sleep(_WATCH_SECONDS)

    def stop(self) -> None:
        """SIGTERM to both, and wait; whatever interrupts the waiting has them killed."""
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for service in self._services:
                service.terminate()
            for service in self._services:
                service.wait(deadline - time.monotonic())
        finally:
            for service in self._services:
                service.kill()

    @property
    def _services(self) -> tuple["LocalService", "LocalService"]:
        return self.embedder, self.index

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while missing := [service for service in self._services if not service.ready()]:
            self._check_alive()
            if time.monotonic() > deadline:
                names = " and ".join(service.name for service in missing)
                raise ServiceDiedError(f"the {names} service was not ready after {START_SECONDS:g} s")
            self._waiting(missing[0].name)
            time.sleep(_POLL_SECONDS)

    def _check_alive(self) -> None:
        for service in self._services:
            service.check_alive()


class LocalService:
    """One service as a child process. ``address`` and ``metrics_url`` stand once it is ready."""

    def __init__(self, name: str, logs: Path, port: int, metrics_port: int, arguments: tuple[str, ...]) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.address = ""
        self.metrics_url = ""
        self._module = f"{name}_service"
        self._ports = (port, metrics_port)
        self._arguments = arguments
        self._log_start = 0
        self._ready_file = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Raise MissingExtraError or PortInUseError when the service can't start."""
        missing = [library for library in _LIBRARIES[self._module] if find_spec(library) is None]
        if missing:
            raise MissingExtraError(
                f"the {self.name} service needs {' and '.join(missing)}, which this installation lacks; "
                'install it with: pip install "eyebright[all]"'
            )
        for port, option in zip(self._ports, (f"--{self.name}-port", f"--{self.name}-metrics-port"), strict=True):
            if port and not _is_free(port):
                raise PortInUseError(
                    f"port {port} is in use, so the {self.name} service can't listen there; "
                    f"is `eyebright serve` running already? {option} takes another port"
                )

    def start(self, ready_folder: Path) -> None:
        """Start the process; it will write its ready file into the folder."""
        port, metrics_port = self._ports
        self._ready_file = ready_folder / self.name
        self.log.parent.mkdir(parents=True, exist_ok=True)
        # -P: a folder called like one of our packages in the working folder must not be imported in its place.
        command = [sys.executable, "-P", "-m", self._module, "--host", HOST, "--port", str(port)]
        command += ["--metrics-port", str(metrics_port), "--ready-file", str(self._ready_file), *self._arguments]
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - no shell, and nothing of it comes from outside
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def ready(self) -> bool:
        """Whether it said that it answers."""
        if not self.address and self._ready_file.exists():
            ports = json.loads(self._ready_file.read_text("utf-8"))
            self.address = f"{HOST}:{ports['grpc_port']}"
            self.metrics_url = f"http://{HOST}:{ports['metrics_port']}/metrics"
        return bool(self.address)

    def check_alive(self) -> None:
        """Raise ServiceDiedError, with the end of its log, when the process has ended."""
        if self._process is None or (code := self._process.poll()) is None:
            return
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        raise ServiceDiedError(
            f"the {self.name} service ended by itself ({how}); the end of its log, {self.log}:\n{self._log_tail()}"
        )

    def terminate(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for the end; returns without it when the time is over."""
        if self._process is not None:
            try:
                self._process.wait(max(0.0, seconds))
            except subprocess.TimeoutExpired:
                return

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _log_tail(self) -> str:
        with self.log.open("rb") as log:
            end = log.seek(0, 2)
            log.seek(max(self._log_start, end - _LOG_TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
        lines = [plain for line in text.splitlines() for plain in _plain_lines(line)]
        return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:]) or "  (nothing)"


def _end_with_parent() -> None:
    """In the child before it becomes the service: SIGTERM when the thread that started it ends, even by SIGKILL."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _plain_lines(line: str) -> list[str]:
    """A line of the log for people: of a JSON line its message and traceback."""
    try:
        entry = json.loads(line)
    except ValueError:
        return [line]
    if not isinstance(entry, dict):
        return [line]
    return [f"{entry.get('level', '')}: {entry.get('message', '')}", *str(entry.get("traceback", "")).splitlines()]


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
