"""Real services as child processes, for tests: started on free ports, found by their ready file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service that answered ready."""

    process: subprocess.Popen[bytes]
    address: str
    metrics_url: str
    log: Path

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(10)

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def start_service(
    module: str,
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    python: Path | None = None,
    within: Sequence[str] = (),
) -> RunningService:
    """Start ``python -m module`` with free ports and wait until it is ready. Its log is ``folder/module.log``.

    ``within`` is a command that becomes the service, such as ``ip netns exec NAME``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready, log = folder / f"{module}.ready", folder / f"{module}.log"
    ready.unlink(missing_ok=True)
    command = [
        *within,
        str(python or sys.executable),
        "-m",
        module,
        "--port",
        "0",
        "--metrics-port",
        "0",
        "--ready-file",
        str(ready),
        *arguments,
    ]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            cwd=folder if python else None,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait(10)
            raise AssertionError(f"{module} did not become ready:\n{log.read_text('utf-8')[-4000:]}")
        time.sleep(0.01)
    ports = json.loads(ready.read_text("utf-8"))
    return RunningService(process, f"127.0.0.1:{ports['grpc_port']}", f"http://127.0.0.1:{ports['metrics_port']}", log)


@contextmanager
def running_service(
    module: str,
    folder: Path,
    *arguments: str,
    environment: dict[str, str] | None = None,
    python: Path | None = None,
    within: Sequence[str] = (),
) -> Iterator[RunningService]:
    """A service for the length of a block; terminated at its end, killed when that does not help."""
    service = start_service(module, folder, *arguments, environment=environment, python=python, within=within)
    try:
        yield service
    finally:
        if service.process.poll() is None:
            try:
                service.terminate()
            except subprocess.TimeoutExpired:
                service.kill()
