"""``eyebright demo``, as a stranger runs it."""

import base64
import re
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from eyebright_cli.demo.gallery import gallery_tar, read_gallery
from eyebright_cli.demo.queries import demo_queries

from tests.e2e.commands import eyebright, running, service_processes
from tests.e2e.conftest import Environment

LAST_LINE = re.compile(
    r"demo: images=(\d+) recall@1=(\d\.\d{3}) recall@10=(\d\.\d{3}) search_p50_ms=(\d+\.\d) indexed_images_per_s=(\d+)"
)
LEAST_RECALL_AT_1, LEAST_RECALL_AT_10 = 0.33, 0.74
"""What the project promises for the bundled checkpoint."""


class Sheet(HTMLParser):
    """The text and the pictures of a contact sheet."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""
        self.pictures: list[bytes] = []
        self.right = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "img":
            source = attributes["src"] or ""
            assert source.startswith("data:image/png;base64,")
            self.pictures.append(base64.b64decode(source.partition(",")[2]))
        self.right += tag == "li" and attributes.get("class") == "right"

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.mark.timeout(300)
def test_the_demo_from_the_wheel_finds_pictures_measures_and_leaves_nothing_running(
    environment: Environment, tmp_path: Path
) -> None:
    python = environment("all")
    script = "import eyebright_cli, embedder_service, index_service\nprint(eyebright_cli.__file__)"
    where = subprocess.run([python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert where.startswith(str(python.parents[1])), where

    answer = eyebright("demo", "--output", "out", folder=tmp_path, python=python)

    assert answer.code == 0, answer.err
    match = LAST_LINE.fullmatch(answer.out.splitlines()[-1])
    assert match is not None, answer.out
    images, recall_at_1, recall_at_10 = int(match[1]), float(match[2]), float(match[3])
    assert images == 1644
    assert LEAST_RECALL_AT_1 <= recall_at_1 <= recall_at_10
    assert LEAST_RECALL_AT_10 <= recall_at_10 <= 1
    assert float(match[4]) > 0
    assert int(match[5]) > 0

    assert [path.name for path in (tmp_path / "out").iterdir()] == ["contact-sheet.html"]
    sheet = Sheet()
    sheet.feed((tmp_path / "out" / "contact-sheet.html").read_text("utf-8"))
    with gallery_tar() as tar:
        queries = demo_queries(read_gallery(tar))
    for query in queries:
        assert query.words in sheet.words
        assert query.words in answer.out
    assert len(sheet.pictures) == 8 * len(queries) + sum(query.picture is not None for query in queries)
    assert all(picture.startswith(b"\x89PNG") for picture in sheet.pictures)
    assert sheet.right > 0
    assert f"{recall_at_10:.1%}" in sheet.words
    assert service_processes(tmp_path) == {}


@pytest.mark.timeout(300)
def test_ctrl_c_stops_the_demo_and_its_services(tmp_path: Path) -> None:
    with running("demo", "--output", "out", folder=tmp_path) as command:
        command.wait_for(lambda: len(service_processes(tmp_path)) == 2)
        answer = command.signal(signal.SIGINT)
    assert answer.code == 130
    assert "Traceback" not in answer.err
    assert service_processes(tmp_path) == {}
    assert list((tmp_path / "out").iterdir()) == []
