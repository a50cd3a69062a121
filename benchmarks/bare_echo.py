"""An echo on a bare grpc.aio server, nothing around it: ``python -m benchmarks.bare_echo READY_FILE``.

The reference of ``call_cost``: the handlers are those of the echo that ``service_runtime`` hosts there.
"""

import asyncio
import json
import sys
from pathlib import Path

from grpc import aio

from tests.integration.service_runtime_host import EchoHost


async def serve(ready: Path) -> None:
    """Echo until the process is ended."""
    server = aio.server()
    EchoHost().register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready.write_text(json.dumps({"grpc_port": port}), "utf-8")
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
