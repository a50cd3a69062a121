"""The ``eyebright`` command as a process, for tests."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from eyebright_cli.app import main

LIMIT_SECONDS = 240.0
_DROPPED = ("FORCE_COLOR", "EYEBRIGHT_EMBEDDER", "EYEBRIGHT_INDEX", "EYEBRIGHT_TOKEN_FILE", "EYEBRIGHT_DEBUG")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON; fails when there is anything else."""
        return json.loads(self.out)


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _DROPPED}
    return {**kept, "COLUMNS": "200", "PYTHONUNBUFFERED": "1", **extra}


def _command(arguments: tuple[str, ...], python: Path | None = None) -> list[str]:
    return [str(python or sys.executable), "-m", "eyebright_cli", *arguments]


def eyebright(
    *arguments: str,
    folder: Path | None = None,
    environment: Mapping[str, str] = MappingProxyType({}),
    python: Path | None = None,
) -> Answer:
    """Run the command to its end, in the environment of ``python`` if that is given."""
    process = subprocess.Popen(
        _command(arguments, python),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        cwd=folder,
        env=_environment(environment),
    )
    try:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    finally:
        _end(process)
    return Answer(process.returncode, out, err)


def eyebright_here(*arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> Answer:
    """Run the command to its end in this process: the same code from ``main`` on, without an interpreter's start."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    code: object = 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(os, "environ", _environment(environment))
        patch.setattr(sys, "argv", ["eyebright", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(code, int)
    return Answer(code, out.getvalue(), err.getvalue())


def _heed_ctrl_c() -> None:
    """Where a shell started the tests in the background, they and their children ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class RunningCommand:
    """A command that runs; its output goes to files, so that no pipe fills up."""

    def __init__(self, arguments: tuple[str, ...], folder: Path) -> None:
        self._out, self._err = folder / "stdout.txt", folder / "stderr.txt"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                _command(arguments),
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                cwd=folder,
                env=_environment({}),
                preexec_fn=_heed_ctrl_c,
            )

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text("utf-8")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text("utf-8")

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Until it holds; fails when the command ends before, or never comes so far."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not true():
            code = self.process.poll()
            assert code is None, f"ended with {code}:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"did not come so far:\n{self.out}\n{self.err}"
            time.sleep(0.01)

    def wait_for_line(self, pattern: str) -> re.Match[str]:
        """Until standard output has a whole line like this."""
        line = re.compile(pattern + r"[^\n]*\n", re.MULTILINE)
        self.wait_for(lambda: line.search(self.out) is not None)
        match = line.search(self.out)
        assert match is not None
        return match

    def signal(self, number: signal.Signals) -> Answer:
        """Send a signal, and wait for the end."""
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_SECONDS)
        return Answer(code, self.out, self.err)


@contextmanager
def running(*arguments: str, folder: Path) -> Iterator[RunningCommand]:
    """A command for the length of a block; stopped at its end, killed when that does not help."""
    command = RunningCommand(arguments, folder)
    try:
        yield command
    finally:
        _end(command.process)


def _end(process: subprocess.Popen[Any]) -> None:
    """SIGTERM if it still runs, so that it stops its own children; SIGKILL when that does not help."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def service_processes(folder: Path) -> dict[int, str]:
    """Command lines, by process id, of the services that live and were told to use something in a folder."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = entry.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:  # it ended meanwhile
            continue
        if f" {folder}/" in line and ("-m embedder_service" in line or "-m index_service" in line):
            found[int(entry.parent.name)] = line
    return found
