"""``python -m embedder_service``: settings, logs, serve.

Exit status: 0 after SIGTERM or SIGINT, 1 when an address is taken, 2 for settings or a model that can't be served.
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
        asyncio.run(serve(EmbedderService(files, settings, registry), settings, registry))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or 'settings'}: {fault['msg']}" for fault in error.errors())
        return _complain("; ".join(faults), 2)
    except CheckpointError as error:
        return _complain(str(error), 2)
    except OSError as error:
        return _complain(str(error), 1)
    return 0


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"embedder_service: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
