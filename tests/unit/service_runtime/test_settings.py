"""Settings refuse what would expose a service by mistake, and unknown names."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service_runtime.settings import ServiceSettings, bind_address, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_loopback_needs_nothing(host: str) -> None:
    assert is_loopback(host)
    assert ServiceSettings(host=host).host == host


@pytest.mark.parametrize(
    "host",
    [
        *("0.0.0.0", "::", "[::]", "::ffff:0.0.0.0", "[::ffff:192.0.2.1]", "192.0.2.1", "2001:db8::1", "fe80::1%eth0"),
        *("example.org", "localhost.example.org", "localhost.", "127.1", "2130706433", "0", "[127.0.0.1", "*", ""),
        *("127.0.0.1,0.0.0.0", "ipv4:0.0.0.0", "dns:///127.0.0.1", "unix:/tmp/socket", " 127.0.0.1"),
    ],
)
def test_beyond_loopback_needs_tls_and_known_callers_or_a_word(host: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    tls: dict[str, Any] = {"tls_certificate": file, "tls_key": file}
    for lacking in ({}, tls, {"token_file": file}):
        with pytest.raises(ValidationError, match="reachable from other machines"):
            ServiceSettings(host=host, **lacking)
    for enough in (tls | {"token_file": file}, tls | {"tls_client_ca": file}, {"insecure": True}):
        assert ServiceSettings(host=host, **enough).host == host


def test_certificate_and_key_go_together(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="go together"):
        ServiceSettings(tls_key=tmp_path / "key.pem")
    with pytest.raises(ValidationError, match=r"tls_client_ca .*ca.pem needs tls_certificate and tls_key"):
        ServiceSettings(tls_client_ca=tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:7002"),
        ("localhost", "localhost:7002"),
        ("::1", "[::1]:7002"),
        ("[::1]", "[::1]:7002"),
        ("::", "[::]:7002"),
        ("::ffff:127.0.0.1", "[::ffff:127.0.0.1]:7002"),
    ],
)
def test_the_end_of_an_ipv6_address_is_not_taken_for_the_port(host: str, address: str) -> None:
    assert bind_address(host, 7002) == address


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="colour"):
        ServiceSettings(colour="blue")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "value"), [("port", 65_536), ("port", -1), ("drain_seconds", 601), ("log_level", "loud")]
)
def test_ranges(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        ServiceSettings(**{name: value})  # type: ignore[arg-type]
