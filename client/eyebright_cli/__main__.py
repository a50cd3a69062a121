"""The ``eyebright`` command, also as ``python -m eyebright_cli``.

Owns what is said where the SDK is installed without what the command needs besides.
"""

import os
import sys
from importlib.util import find_spec


def main() -> None:
    """Entry point; ends the process with the command's exit status."""
    if missing := [name for name in ("rich", "typer") if find_spec(name) is None]:
        sys.exit(f'eyebright: the command needs {" and ".join(missing)}: pip install "eyebright[cli]"')
    # Services are started as forks of this process, in which gRPC's threads would run, and may crash, until they have
    # become the other program (grpc issue 43055). Read when grpc is imported.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from eyebright_cli.app import main as run

    run()


if __name__ == "__main__":
    main()
