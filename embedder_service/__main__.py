"""``python -m embedder_service``.

Owns what is said where the distribution is installed without the service's extra.
"""

import sys
from importlib.util import find_spec

_LIBRARIES = (
    "PIL",
    "grpc_health",
    "grpc_reflection",
    "prometheus_client",
    "pydantic_settings",
    "torch",
    "transformers",
)

if __name__ == "__main__":
    if missing := [name for name in _LIBRARIES if find_spec(name) is None]:
        sys.exit(f'embedder_service needs {", ".join(missing)}: pip install "eyebright[embedder]"')
    from embedder_service.command import main

    sys.exit(main(sys.argv[1:]))
