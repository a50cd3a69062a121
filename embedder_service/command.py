"""The commands: serve, which is meant when none is named, check and golden.

Owns the exit status: 0 after SIGTERM, 1 when the service could not go on or a check failed, 2 with one line on standard
error for what the operator has to put right.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry
from pydantic import ValidationError
from pydantic_settings import CliApp

from embedder_service.checkpoint_files import CheckpointError, find_checkpoint
from embedder_service.pairs import PairsError
from embedder_service.settings import CheckSettings, EmbedderSettings, GoldenSettings
from service_runtime.logging import configure_logging
from service_runtime.server import serve

# torch takes seconds to import: each command does so itself, once a wrong option has been told.


def main(arguments: Sequence[str]) -> int:
    """Run the command that the arguments begin with; returns the exit status."""
    # OpenMP threads spin between parallel regions by default. Measured with two busy neighbours on two cores, an image
    # then takes 247 ms instead of 15. The variable is read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # None at all, though, and each of a pass's hundreds of regions waits for a thread to be woken: a caption of a base
    # model takes 24 ms instead of 16. So many rounds are about 10 microseconds.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # Large pages for large buffers, which are fresh in each pass: 5 % more images a second. Also read by torch.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    named = bool(arguments) and arguments[0] in _COMMANDS
    command = _COMMANDS[arguments[0]] if named else _serve
    try:
        return command(list(arguments[named:]))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors())
        return _complain("; ".join(faults))
    except (CheckpointError, PairsError, OSError) as error:
        return _complain(str(error))


def _serve(arguments: list[str]) -> int:
    settings = CliApp.run(EmbedderSettings, cli_args=arguments)
    configure_logging(settings.log_level)
    files = find_checkpoint(settings.model, settings.revision)
    from embedder_service.service import EmbedderService

    registry = CollectorRegistry()
    return asyncio.run(serve(EmbedderService(files, settings, registry), settings, registry))


def _check(arguments: list[str]) -> int:
    settings = CliApp.run(CheckSettings, cli_args=arguments)
    files = find_checkpoint(settings.model, settings.revision)
    if settings.recall is not None:
        from embedder_service.mistakes import check_recall

        return check_recall(files, settings.recall, settings.pairs, sys.stdout)
    from embedder_service.conformance import check

    return check(files, sys.stdout)


def _golden(arguments: list[str]) -> int:
    settings = CliApp.run(GoldenSettings, cli_args=arguments)
    files = find_checkpoint(settings.model, settings.revision)
    from embedder_service.conformance import make_golden

    path = make_golden(files, settings.output)
    sys.stdout.write(f"{path}\n")
    return 0


_COMMANDS: dict[str, Callable[[list[str]], int]] = {"serve": _serve, "check": _check, "golden": _golden}


def _complain(message: str) -> int:
    sys.stderr.write(f"embedder_service: {message}\n")
    return 2
