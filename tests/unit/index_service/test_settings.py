from pathlib import Path

import pytest

from index_service.settings import IndexSettings, SettingsError, read_settings


def test_defaults_and_the_command_line_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEBRIGHT_INDEX_DEFAULT_SHARD_COUNT", "7")
    monkeypatch.setenv("EYEBRIGHT_INDEX_SEARCH_THREADS", "3")
    settings = read_settings(["--data-folder", "data", "--search-threads", "2"])
    assert settings.data_folder == Path("data")
    assert (settings.port, settings.metrics_port) == (7002, 9102)
    assert (settings.default_shard_count, settings.search_threads) == (7, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "^--data-folder is required$"),
        (["--data-folder", "d", "--port", "70000"], "^--port: .*65535, not '70000'$"),
        (["--data-folder", "d", "--default-shard-count", "0"], "--default-shard-count: .*, not '0'"),
        (["--data-folder", "d", "--recall-probe-share", "1.5"], "--recall-probe-share: .*, not '1.5'"),
        (["--data-folder", "d", "--recall-probe-cpu-share", "0"], "--recall-probe-cpu-share: .*, not '0'"),
        (
            ["--data-folder", "d", "--snapshot-urls", "backups"],
            "^--snapshot-urls: expected an absolute path .*'backups'$",
        ),
        (["--data-folder", "d", "--host", "0.0.0.0"], "^host 0.0.0.0 is reachable"),
    ],
)
def test_a_bad_setting_is_named_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message) as raised:
        read_settings(arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "value", ["/backups,s3://bucket/x", " /backups , s3://bucket/x", '["/backups", "s3://bucket/x"]']
)
def test_snapshot_urls_are_a_list_on_the_command_line_and_in_the_environment(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = ("/backups", "s3://bucket/x")
    assert read_settings(["--data-folder", "d", "--snapshot-urls", value]).snapshot_urls == expected
    monkeypatch.setenv("EYEBRIGHT_INDEX_SNAPSHOT_URLS", value)
    assert read_settings(["--data-folder", "d"]).snapshot_urls == expected
    monkeypatch.setenv("EYEBRIGHT_INDEX_SNAPSHOT_URLS", "")
    assert read_settings(["--data-folder", "d"]).snapshot_urls == ()


def test_help_explains_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        read_settings(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert "EYEBRIGHT_INDEX_DATA_FOLDER" in text
    for name, field in IndexSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description
