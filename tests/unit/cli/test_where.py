import pytest
import typer
from eyebright_cli.app import app
from eyebright_cli.where import parse_where
from eyebright_client import F, Filter
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        (["group=food"], F("group") == "food"),
        (["camera.iso>=800"], F("camera", "iso") >= 800),
        (["n < 0.5"], F("n") < 0.5),
        (["n!=true"], F("n") != True),  # noqa: E712
        (['n="3"'], F("n") == "3"),
        (["note=a = b"], F("note") == "a = b"),
        (["caption^=a dog"], F.caption.startswith("a dog")),
        (['group=["food", 1]'], F("group").isin(["food", 1])),
        (['group!=["food"]'], ~F("group").isin(["food"])),
        (["gone=null"], F("gone").is_null()),
        (["rating"], F("rating").exists()),
        (["a=1", "b<2"], (F("a") == 1) & (F("b") < 2)),
        (None, None),
    ],
)
def test_conditions(conditions: list[str] | None, expected: Filter | None) -> None:
    assert (parse_where(conditions) == expected) is True


@pytest.mark.parametrize("condition", ["=food", "", "a<true", 'a={"b": 1}', "a<[1]", "a>=99999999999999999999"])
def test_what_makes_no_sense_is_refused(condition: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_where([condition])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["delete"], 2, "give either ids or --where"),
        (["delete", "a", "--where", "b=1"], 2, "give either ids or --where"),
        (["delete", "--where", "b=1"], 1, "Forget all pictures of images where b=1? [y/N]"),
        (["search", "words", "--where", "=1"], 2, "FIELD=VALUE"),
    ],
)
def test_nothing_is_asked_of_a_server_before_it_is_clear(arguments: list[str], code: int, message: str) -> None:
    result = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, arguments, input="n\n")
    assert result.exit_code == code
    assert message in result.output
