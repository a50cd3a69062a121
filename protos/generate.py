"""Generate the Python stubs of every .proto under protos/eyebright, beside its .proto.

Run by the wheel's build hook and by ``make protos``. The stubs are ignored by git and shipped in the wheel. Because the
folder of a .proto is its proto package and its Python package, no import in a stub needs patching.
"""

import sys
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent


def generate() -> list[Path]:
    """Write ``*_pb2.py``, ``*_pb2.pyi`` and, for services, ``*_pb2_grpc.py``; return what was written.

    Raises RuntimeError when protoc refuses a file; its messages are on standard error.
    """
    sources = sorted(PROTOS.glob("eyebright/**/*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    failed = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={PROTOS / 'third_party'}",
            f"--proto_path={well_known}",
            f"--python_out={PROTOS}",
            f"--pyi_out={PROTOS}",
            f"--grpc_python_out={PROTOS}",
            *(str(source) for source in sources),
        ]
    )
    if failed:
        raise RuntimeError(f"protoc failed with exit status {failed} on {PROTOS}")
    for source in sources:
        empty_stub = source.with_name(f"{source.stem}_pb2_grpc.py")
        if "\nservice " not in source.read_text("utf-8"):
            empty_stub.unlink(missing_ok=True)
    return sorted(PROTOS.glob("eyebright/**/*_pb2*.py*"))


if __name__ == "__main__":
    for path in generate():
        sys.stdout.write(f"{path.relative_to(PROTOS)}\n")
