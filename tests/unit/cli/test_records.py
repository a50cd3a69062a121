from datetime import UTC, datetime

import pytest
from eyebright_cli.records import recall_line
from eyebright_client import RecallEstimate

SINCE = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("estimate", "line"),
    [
        (
            RecallEstimate("text", "fastscan", 0.9961, 0.9908, 0.9987, 812, SINCE),
            "recall@k of captions 0.996 (0.991-0.999, 812 sampled queries, fastscan)",
        ),
        (
            RecallEstimate("image", "hnsw", 1.0, 0.9962, 1.0, 1_000, SINCE),
            "recall@k of pictures 1.000 (0.996-1.000, 1,000 sampled queries, hnsw)",
        ),
        (
            RecallEstimate("record", "new\x1b", 0.5, 0.09, 0.91, 1, SINCE),
            "recall@k of records 0.500 (0.090-0.910, 1 sampled query, new\N{REPLACEMENT CHARACTER})",
        ),
    ],
    ids=["captions", "pictures", "records"],
)
def test_recall_is_told_with_its_interval_and_what_it_rests_on(estimate: RecallEstimate, line: str) -> None:
    assert recall_line(estimate) == line
