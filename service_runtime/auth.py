"""Who may call: TLS credentials and the bearer token.

Owns reading both from files and the comparison in constant time.
"""

import hmac
import re
import ssl
from pathlib import Path

import grpc

from service_runtime.errors import Unauthenticated

_OPEN_SERVICES = ("/grpc.health.v1.Health/",)
_TOKEN = re.compile(rb"[\x21-\x7e]+")  # what a metadata value can carry


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """TLS credentials from two PEM files. Raises OSError when they can't be read or don't belong together."""
    try:  # grpc says nothing of what is wrong with them
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise OSError(
            f"tls_certificate {certificate} and tls_key {key}: expected PEM files of a chain and its key, without a "
            f"password ({error})"
        ) from error
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


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
