"""The command: settings, logs, serve.

Owns the exit status: 0 after SIGTERM, 1 when the service could not go on, 2 with one line on standard error for what
the operator has to put right.
"""

import asyncio
import os
import sys

from prometheus_client import CollectorRegistry, ProcessCollector
from pydantic import ValidationError
from pydantic_settings import CliApp

from embedder_service.checkpoint_files import CheckpointError, find_checkpoint
from embedder_service.settings import EmbedderSettings
from service_runtime.logging import configure_logging
from service_runtime.server import serve


def main() -> int:
    """Run the service until it is told to stop; returns the exit status."""
    # OpenMP threads spin between parallel regions by default. Measured with two busy neighbours on two cores, an image
    # then takes 247 ms instead of 15. The variable is read when torch loads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        settings = CliApp.run(EmbedderSettings)
        configure_logging(settings.log_level)
        files = find_checkpoint(settings.model, settings.revision)
        from embedder_service.service import EmbedderService  # torch takes seconds; a wrong option is told at once

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        return asyncio.run(serve(EmbedderService(files, settings, registry), settings, registry))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors())
        return _complain("; ".join(faults))
    except (CheckpointError, OSError) as error:
        return _complain(str(error))


def _complain(message: str) -> int:
    sys.stderr.write(f"embedder_service: {message}\n")
    return 2
