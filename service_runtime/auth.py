"""Who may call: the bearer token.

Owns reading it from a file and the comparison in constant time.
"""

import hmac
import re
from pathlib import Path

from service_runtime.errors import Unauthenticated

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_TOKEN = re.compile(rb"[\x21-\x7e]+")  # what a metadata value can carry


class BearerToken:
    """The one token a service takes."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    @classmethod
    def from_file(cls, path: Path) -> "BearerToken":
        """The token in the file, without the white space around it. Raises OSError when there is none."""
        token = path.read_bytes().strip()
        if not _TOKEN.fullmatch(token):
            raise OSError(
                f"token_file {path}: expected printable ASCII without white space, not {len(token)} other bytes"
            )
        return cls(token.decode())

    def check(self, method: str, metadata: dict[str, str]) -> None:
        """Raise Unauthenticated unless the call carries the token or is a health check."""
        if method.startswith(_OPEN_SERVICES):
            return
        given = metadata.get("authorization")
        if given is None:
            raise Unauthenticated("the call carries no authorization metadata; expected 'authorization: Bearer TOKEN'")
        if not hmac.compare_digest(given.encode(), self._expected):
            raise Unauthenticated("the token of this call is not the one this server takes")
