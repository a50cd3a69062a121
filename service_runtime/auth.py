"""Who may call: TLS credentials and the bearer token.

Owns reading both from files and the comparison in constant time.
"""

import hmac
from pathlib import Path

import grpc

from service_runtime.errors import Unauthenticated

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """TLS credentials from two PEM files."""
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


class BearerToken:
    """The one token a service takes."""

    def __init__(self, token: str) -> None:
        if not token:
            raise ValueError("the token is empty")
        self._expected = f"Bearer {token}".encode()

    @classmethod
    def from_file(cls, path: Path) -> "BearerToken":
        """The token in the file, without the white space around it. Raises ValueError when there is none."""
        return cls(path.read_text("utf-8").strip())

    def check(self, method: str, metadata: dict[str, str]) -> None:
        """Raise Unauthenticated unless the call carries the token or is a health check."""
        if method.startswith(_OPEN_SERVICES):
            return
        given = metadata.get("authorization")
        if given is None:
            raise Unauthenticated("the call carries no authorization metadata; expected 'authorization: Bearer TOKEN'")
        if not hmac.compare_digest(given.encode(), self._expected):
            raise Unauthenticated("the token of this call is not the one this server takes")
