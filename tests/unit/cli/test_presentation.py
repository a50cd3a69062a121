import json
from pathlib import Path

import numpy as np
import pytest
from eyebright_cli.presentation import evidence_line, plain, print_json, result_object, result_view, stages_line
from eyebright_client import Evidence, Record, SearchResult, Stages
from rich.console import Console, RenderableType

EVIDENCE = Evidence(
    exact=True, recipe="exact", shards_asked=4, shards_answered=4, rows_scanned=1644, estimated_recall=1.0
)
STAGES = Stages(decode_seconds=0.0005, forward_seconds=0.004, shard_search_seconds=0.001, total_seconds=0.0071)


def result(*records: Record, probabilities: list[float] | None = None) -> SearchResult:
    return SearchResult(
        ids=tuple(record.id for record in records),
        scores=np.linspace(0.5, 0.25, len(records), dtype=np.float32),
        probabilities=None if probabilities is None else np.array(probabilities),
        records=records,
        evidence=EVIDENCE,
        stages=STAGES,
    )


def rendered(view: RenderableType, width: int = 120, **options: bool) -> str:
    console = Console(width=width, record=True, file=Path("/dev/null").open("w"), force_terminal=True, highlight=False)  # noqa: SIM115
    console.print(view)
    console.file.close()
    return console.export_text(**options)


def test_the_table_shows_score_probability_id_and_caption() -> None:
    found = result(Record("red-heart", "red heart"), Record("pink-heart"), probabilities=[0.9, 0.125])
    lines = rendered(result_view("“a heart”", found)).splitlines()
    assert lines[0].strip() == "“a heart”"
    assert lines[1].split() == ["#", "score", "probability", "id", "caption"]
    assert lines[2].split() == ["1", "0.5000", "0.9000", "red-heart", "red", "heart"]
    assert lines[3].split() == ["2", "0.2500", "0.1250", "pink-heart"]


def test_the_footer_shows_evidence_and_stages() -> None:
    text = rendered(result_view("q", result(Record("a"))))
    assert "exact answer · recipe exact · 1,644 vectors scanned · 4 of 4 shards · ANN recall 1.000" in text
    assert "decode 0.5 · forward 4.0 · shard search 1.0 · total 7.1 ms" in text


def test_no_probability_column_where_there_is_no_probability() -> None:
    assert "probability" not in rendered(result_view("q", result(Record("a"))))


def test_no_hits_are_said() -> None:
    assert "no hits" in rendered(result_view("q", result()))


def test_a_long_id_is_never_cut() -> None:
    text = rendered(result_view("q", result(Record("ж" * 300, "y"))), width=60)
    assert text.count("ж") == 300


def test_a_truncated_query_is_said() -> None:
    assert "cut at the model's text length" in rendered(result_view("q", SearchResult(truncated=True)))


def test_unknown_recall_is_not_zero() -> None:
    unknown = Evidence(
        exact=False, recipe="fastscan", shards_asked=4, shards_answered=3, rows_scanned=9, estimated_recall=None
    )
    assert (
        evidence_line(unknown)
        == "approximate answer · recipe fastscan · 9 vectors scanned · 3 of 4 shards · ANN recall unknown"
    )


def test_stages_without_an_embedder() -> None:
    assert stages_line(Stages(shard_search_seconds=0.001, total_seconds=0.002)) == "shard search 1.0 · total 2.0 ms"


@pytest.mark.parametrize(
    "hostile", ["\x1b[31mred", "\x1b]8;;http://evil\x1b\\", "a\rb", "a\x07b", "a\x9bb", "[bold]x[/bold]"]
)
def test_a_caption_can_not_steer_the_terminal(hostile: str) -> None:
    text = rendered(result_view(hostile, result(Record(hostile, hostile))), styles=False)
    assert not any(character in text for character in "\x1b\r\x07\x9b")
    if "[" in hostile and "]" in hostile and "\x1b" not in hostile:
        assert text.count(hostile) == 3


def test_plain_keeps_what_people_write() -> None:
    assert plain("Bär 日本語 ❤️\u200d🔥\nsecond") == "Bär 日本語 ❤️\u200d🔥 second"


def test_json_of_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = result(Record("Bär", "a bear", "/b.png", {"n": 2**60}), probabilities=[0.5])
    print_json(result_object({"text": "bear"}, found))
    assert json.loads(capsys.readouterr().out) == {
        "query": {"text": "bear"},
        "hits": [
            {
                "id": "Bär",
                "score": 0.5,
                "probability": 0.5,
                "caption": "a bear",
                "source_uri": "/b.png",
                "metadata": {"n": 2**60},
            }
        ],
        "evidence": {
            "exact": True,
            "recipe": "exact",
            "shards_asked": 4,
            "shards_answered": 4,
            "rows_scanned": 1644,
            "estimated_recall": 1.0,
        },
        "stages": {
            "decode_seconds": 0.0005,
            "queue_seconds": 0.0,
            "forward_seconds": 0.004,
            "shard_search_seconds": 0.001,
            "merge_seconds": 0.0,
            "total_seconds": 0.0071,
        },
        "truncated": False,
    }
