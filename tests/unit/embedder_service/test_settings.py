"""Settings: defaults, ranges and the environment."""

import pytest
from pydantic import ValidationError

from embedder_service.settings import EmbedderSettings


def test_defaults() -> None:
    settings = EmbedderSettings()
    assert (settings.port, settings.metrics_port, settings.model, settings.device) == (7001, 9101, "demo", "cpu")


def test_the_environment_is_read_under_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEBRIGHT_EMBEDDER_MAX_ITEMS", "7")
    assert EmbedderSettings().max_items == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_items", 0), ("batch_limit", 5000), ("device", "tpu"), ("model", ""), ("port", 70_000), ("colour", "red")],
)
def test_what_is_out_of_range_or_unknown_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        EmbedderSettings(**{name: value})  # type: ignore[arg-type]


def test_warm_up_sizes_are_joined_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEBRIGHT_EMBEDDER_WARM_UP_SIZES", "8,1,8")
    assert EmbedderSettings().warm_up_sizes == (1, 8)
    for wrong in ("", "0", "1,x", "4097"):
        with pytest.raises(ValidationError, match="warm_up_sizes"):
            EmbedderSettings(warm_up_sizes=wrong)


def test_the_queue_holds_two_requests_at_least() -> None:
    with pytest.raises(ValidationError, match="queue_limit is 300; expected at least 512"):
        EmbedderSettings(queue_limit=300, max_items=256)


def test_every_setting_is_explained() -> None:
    assert not [name for name, field in EmbedderSettings.model_fields.items() if not field.description]
