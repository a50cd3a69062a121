"""Settings refuse what would expose a service by mistake, and unknown names."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service_runtime.settings import ServiceSettings, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]"])
def test_loopback_needs_nothing(host: str) -> None:
    assert is_loopback(host)
    assert ServiceSettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.0.2.1", "example.org", ""])
def test_beyond_loopback_needs_tls_and_token_or_a_word(host: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(ValidationError, match="reachable from other machines"):
        ServiceSettings(host=host)
    with pytest.raises(ValidationError, match="reachable from other machines"):
        ServiceSettings(host=host, tls_certificate=file, tls_key=file)
    with pytest.raises(ValidationError, match="reachable from other machines"):
        ServiceSettings(host=host, token_file=file)
    assert ServiceSettings(host=host, tls_certificate=file, tls_key=file, token_file=file).host == host
    assert ServiceSettings(host=host, insecure=True).host == host


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="go together"):
        ServiceSettings(tls_key=tmp_path / "key.pem")


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        ServiceSettings(colour="blue")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"), [("port", 65_536), ("port", -1), ("drain_seconds", 601), ("log_level", "loud")]
)
def test_ranges(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
