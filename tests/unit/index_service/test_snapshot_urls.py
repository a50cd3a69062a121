from pathlib import Path

import pytest

from index_service.snapshot_urls import is_allowed, parse_snapshot_url


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/backups", "s3://bucket/backups"),
        ("s3://bucket/backups/", "s3://bucket/backups"),
        ("s3://bucket/backups/a/b", "s3://bucket/backups/"),
        ("s3://bucket/a", "s3://bucket"),
        ("/backups/a", "/backups"),
        ("file:///backups/a", "/backups"),
        ("/backups/a/", "file:///backups"),
        ("/backups/./a/../b", "/backups"),
        ("/backups//a", "/backups"),
        ("/a", "/"),
    ],
)
def test_what_lies_in_an_allowed_place_is_allowed(url: str, allowed: str) -> None:
    assert is_allowed(parse_snapshot_url(url), ["/elsewhere", allowed])
    assert not is_allowed(parse_snapshot_url(url), ["/elsewhere"])
    assert not is_allowed(parse_snapshot_url(url), [])


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("s3://bucket/backups-of-others", "s3://bucket/backups"),
        ("s3://bucket2/backups", "s3://bucket/backups"),
        ("s3://bucket", "s3://bucket/backups"),
        ("s3a://bucket/backups", "s3://bucket/backups"),
        ("memory://backups/a", "/backups"),
        ("/backups-of-others", "/backups"),
        ("/backups/../etc", "/backups"),
        ("file:///backups/../etc", "/backups"),
        ("/", "/backups"),
    ],
)
def test_what_lies_beside_it_is_not(url: str, allowed: str) -> None:
    assert not is_allowed(parse_snapshot_url(url), [allowed])


@pytest.mark.parametrize(
    "url",
    [
        "",
        "backups",
        "./backups",
        "file://localhost/backups",
        "file://backups",
        "file:/backups",
        "local://backups",
        "FILE:///backups",
        "S3://bucket/a",
        "s3://",
        "s3:///a",
        "s3://bucket//a",
        "s3://bucket/../other",
        "s3://bucket/a/..",
        "s3://bucket/./a",
        "s3://../bucket",
        "s3://bucket/a?versionId=1",
        "s3://bucket/a#b",
        "s3://bucket/*",
        "s3://key:secret@bucket/a",
        "s3://bucket/[ab]",
        "s3://bucket\\a",
        "simplecache::s3://bucket/a",
        "zip://a::file:///etc/x.zip",
        "/backups/\x00",
        "/backups/\n",
        "/" + "a" * 2_048,
    ],
)
def test_urls_that_could_be_read_in_two_ways_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_snapshot_url(url)


def test_symbolic_links_lead_where_they_lead(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    (tmp_path / "alias").symlink_to(inside)
    assert not is_allowed(parse_snapshot_url(f"{inside}/link/new"), [str(inside)])
    assert not is_allowed(parse_snapshot_url(f"{inside}/link/../outside"), [str(inside)])
    assert is_allowed(parse_snapshot_url(f"{tmp_path}/alias/new"), [str(inside)])
    assert is_allowed(parse_snapshot_url(f"{inside}/new"), [f"{tmp_path}/alias"])
    assert parse_snapshot_url(f"file://{inside}/link").folder == outside


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(ValueError, match="no name or password") as caught:
        parse_snapshot_url("s3://key:hush@bucket/a")
    assert "hush" not in str(caught.value)
