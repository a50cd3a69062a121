"""The command: read the settings, serve until told to stop.

Owns the exit status: 0 after SIGTERM, 1 when the service could not go on, 2 with one line on standard error for what
the operator has to put right.
"""

import asyncio
import sys

from prometheus_client import CollectorRegistry

from index_service.catalog import DataFolderError
from index_service.host import IndexHost
from index_service.settings import SettingsError, read_settings
from service_runtime.logging import configure_logging
from service_runtime.server import serve

_SWITCH_SECONDS = 0.0005
"""How long a thread keeps Python's lock when others want it. A search takes it a dozen times: at the default of 5 ms it
would wait that long each time for a thread that handles the ids of a whole segment.
"""


def main() -> int:
    """Serve; returns the exit status of the process."""
    try:
        settings = read_settings(sys.argv[1:])
        configure_logging(settings.log_level)
        sys.setswitchinterval(_SWITCH_SECONDS)
        registry = CollectorRegistry()
        return asyncio.run(serve(IndexHost(settings, registry), settings, registry))
    except (SettingsError, DataFolderError, OSError) as error:
        sys.stderr.write(f"index_service: {error}\n")
        return 2
