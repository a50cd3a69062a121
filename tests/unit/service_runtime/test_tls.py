"""Certificates from files: what is wrong with them is said, as an OSError that names the files."""

import ssl
from pathlib import Path

import pytest

from service_runtime.tls import TlsFiles, server_credentials
from tests.security.authority import Authority


def test_what_is_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pem").write_text("garbage")
    with pytest.raises(OSError, match=r"tls_certificate .*pem and tls_key .*pem: expected PEM files") as caught:
        server_credentials(TlsFiles(tmp_path / "pem", tmp_path / "pem"))
    assert not isinstance(caught.value, ssl.SSLError)


def test_a_key_of_another_certificate_and_an_authority_without_certificates_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    with pytest.raises(OSError, match=r"tls_key .*other-2.key: expected PEM files of a chain and its key"):
        server_credentials(TlsFiles(one.certificate, other.key))
    for content in ("", one.key.read_text()):
        (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(OSError, match=r"tls_client_ca .*ca.pem: expected a PEM file of certificates") as caught:
            server_credentials(TlsFiles(one.certificate, one.key, tmp_path / "ca.pem"))
        assert "PRIVATE KEY" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="missing"):
        server_credentials(TlsFiles(one.certificate, one.key, tmp_path / "missing"))
