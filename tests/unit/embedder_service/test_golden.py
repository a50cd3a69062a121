"""The file of golden vectors: written, read back, and refused when it is none."""

from pathlib import Path

import numpy as np
import pytest

from embedder_service.checkpoint_files import CheckpointError
from embedder_service.golden import Golden, GoldenCaption, GoldenPicture, cosine, read_golden, write_golden

VECTOR = np.array([0.6, 0.0, -0.8], np.float32)
WHOLE = Golden(
    "f" * 64,
    "a test",
    (GoldenCaption("a dog “quoted”\n", (5, 1, 0), VECTOR), GoldenCaption("not known yet")),
    (GoldenPicture("a.png", b"\x89PNG\x00", "0" * 64, VECTOR), GoldenPicture("b.png", b"x")),
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    write_golden(path, WHOLE)
    read = read_golden(path)
    assert (read.fingerprint, read.made_by) == (WHOLE.fingerprint, WHOLE.made_by)
    assert [(c.text, c.token_ids) for c in read.captions] == [(c.text, c.token_ids) for c in WHOLE.captions]
    assert [(p.name, p.encoded, p.pixels_sha256) for p in read.pictures] == [
        (p.name, p.encoded, p.pixels_sha256) for p in WHOLE.pictures
    ]
    for known, unknown in (read.captions, read.pictures):
        assert known.vector is not None
        np.testing.assert_array_equal(known.vector, VECTOR)
        assert unknown.vector is None
    assert len(path.read_text("utf-8").splitlines()) == 11  # an item a line, so that a change can be read


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no golden vectors: Expecting value"),
        ("[]", "holds no golden vectors"),
        ('{"fingerprint": "f"}', "'format' is missing"),
        ('{"format": 2}', "expected format 1, not 2"),
        ('{"format": 1, "fingerprint": "f", "captions": [{}], "pictures": []}', "'text' is missing"),
        (
            '{"format": 1, "fingerprint": "f", "captions": [{"text": "", "vector": "AAAAAAAA//8="}], "pictures": []}',
            "expected vectors of length 1, not nan",
        ),
        (
            '{"format": 1, "fingerprint": "f", "captions": [], "pictures": [{"name": "a", "data": "!"}]}',
            "expected base64",
        ),
    ],
)
def test_what_is_no_golden_file_is_refused_by_name(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "golden.json"
    path.write_text(content, "utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        read_golden(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"golden\.json can't be read"):
        read_golden(tmp_path / "golden.json")


def test_cosine_needs_no_unit_vectors() -> None:
    assert cosine(3 * VECTOR, 0.5 * VECTOR) == pytest.approx(1)
    assert cosine(VECTOR, -VECTOR) == pytest.approx(-1)
