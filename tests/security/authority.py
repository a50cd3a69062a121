"""Certificates for tests: an authority of its own, and what it signs."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_KEY = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; ``certificate`` is its own."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder / name
        self._folder.mkdir()
        self._number = 0
        self._own = Identity(self._folder / "ca.pem", self._folder / "ca.key")
        self.certificate = self._own.certificate
        self._openssl(f"{_KEY} -subj /CN={name}", self._own)

    def issue(self, name: str) -> Identity:
        """A certificate for ``name``, localhost and 127.0.0.1, for servers and clients alike."""
        self._number += 1
        stem = self._folder / f"{name}-{self._number}"
        identity = Identity(stem.with_suffix(".pem"), stem.with_suffix(".key"))
        self._openssl(
            f"{_KEY} -subj /CN={name} -CA {self._own.certificate} -CAkey {self._own.key} "
            f"-addext subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE",
            identity,
        )
        return identity

    def _openssl(self, arguments: str, made: Identity) -> None:
        command = ["openssl", "req", "-x509", *arguments.split(), "-keyout", str(made.key), "-out"]
        subprocess.run([*command, str(made.certificate)], check=True, capture_output=True)
