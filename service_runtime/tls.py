"""TLS: the server's certificate, the certificates it asks of clients, and their renewal without a restart.

Owns reading PEM files and what is wrong with them. Each new connection gets the certificate that lies there then;
connections that stand go on.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from service_runtime.reloading import Reloading, ReloadMetrics


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files."""

    certificate: Path
    """The server's chain."""
    key: Path
    """Its private key, without a password."""
    client_ca: Path | None = None
    """Who signs clients' certificates; with it, a client without one is turned away during the handshake."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *(() if self.client_ca is None else (self.client_ca,)))


def server_credentials(files: TlsFiles, metrics: ReloadMetrics | None = None) -> grpc.ServerCredentials:
    """Credentials that follow the files. Raises OSError when they can't be read or don't belong together."""
    configurations = Reloading("certificate", files.paths, lambda: _read(files), metrics)
    first = given = configurations.get()

    def changed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by grpc, in one of its threads, for each new connection; None leaves it as it was."""
        nonlocal given
        latest = configurations.get()
        if latest is given:
            return None
        given = latest
        return latest

    return grpc.dynamic_ssl_server_credentials(
        first,
        changed,  # type: ignore[arg-type]  # the stubs leave out that None is an answer
        require_client_authentication=files.client_ca is not None,
    )


def _read(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    key, chain = files.key.read_bytes(), files.certificate.read_bytes()
    roots = None if files.client_ca is None else files.client_ca.read_bytes()
    _check(files)
    return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)


def _check(files: TlsFiles) -> None:
    """Raise OSError where grpc would take the files and then fail every handshake without a word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except ssl.SSLError as error:
        raise OSError(
            f"tls_certificate {files.certificate} and tls_key {files.key}: expected PEM files of a chain and its key, "
            f"without a password ({error})"
        ) from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(cafile=files.client_ca)
        except ssl.SSLError as error:
            raise OSError(f"tls_client_ca {files.client_ca}: expected a PEM file of certificates ({error})") from error
