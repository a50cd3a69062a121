import io
from html.parser import HTMLParser

import numpy as np
import pytest
from eyebright_cli.demo.command import Measured
from eyebright_cli.demo.contact_sheet import Finding, contact_sheet
from eyebright_cli.demo.evaluation import LabelRecall
from eyebright_cli.demo.gallery import Picture, gallery_tar, read_gallery
from eyebright_cli.demo.queries import BY_LABEL, BY_PICTURE, BY_TAG, demo_queries
from eyebright_cli.demo.query import DemoQuery
from eyebright_client import Evidence, Record, SearchResult
from PIL import Image


@pytest.fixture(scope="module")
def gallery() -> dict[str, Picture]:
    with gallery_tar() as tar:
        return read_gallery(tar)


def test_the_gallery_is_whole(gallery: dict[str, Picture]) -> None:
    assert len(gallery) == 1644
    labels = [picture.label for picture in gallery.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert all(picture.png.startswith(b"\x89PNG") for picture in gallery.values())


def test_every_query_has_a_right_answer(gallery: dict[str, Picture]) -> None:
    queries = demo_queries(gallery)
    assert len(queries) == len(BY_LABEL) + len(BY_TAG) + len(BY_PICTURE) == 16
    for query in queries:
        assert query.right, query.words
        assert query.right <= gallery.keys(), query.words


def test_query_pictures_are_pictures_and_not_the_indexed_ones(gallery: dict[str, Picture]) -> None:
    queries = [query for query in demo_queries(gallery) if query.picture is not None]
    assert len(queries) == 4
    for query in queries:
        (key,) = query.right
        assert query.picture is not None
        with Image.open(io.BytesIO(query.picture)) as picture, Image.open(io.BytesIO(gallery[key].png)) as original:
            changed = picture.size != original.size
            assert changed or np.any(np.asarray(picture.convert("RGB")) != np.asarray(original.convert("RGB")))


def test_the_last_line() -> None:
    measured = Measured(1644, LabelRecall(0.18049, 0.5), 0.00841, 612.7)
    assert measured.last_line() == (
        "demo: images=1644 recall@1=0.180 recall@10=0.500 search_p50_ms=8.4 indexed_images_per_s=613"
    )


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def page(*findings: Finding) -> Page:
    parsed = Page()
    parsed.feed(
        contact_sheet(findings, {"red-heart": b"\x89PNG heart", "rose": b"\x89PNG rose"}, {"pictures": "1,644"})
    )
    return parsed


def answer(*records: Record) -> SearchResult:
    evidence = Evidence(
        exact=True, recipe="exact", shards_asked=4, shards_answered=4, rows_scanned=1644, estimated_recall=1.0
    )
    scores = np.linspace(0.5, 0.25, len(records), dtype=np.float32)
    return SearchResult(
        ids=tuple(record.id for record in records),
        scores=scores,
        probabilities=scores,
        records=records,
        evidence=evidence,
    )


def test_the_sheet_shows_query_hits_numbers_and_the_right_answer() -> None:
    query = DemoQuery("a heart", None, frozenset({"rose"}))
    sheet = page(Finding(query, answer(Record("red-heart", "red heart"), Record("rose", "rose"))))
    assert "“a heart”" in sheet.words
    assert "0.500 · p 0.500" in sheet.words
    assert "1,644 vectors scanned" in sheet.words
    assert "1,644" in sheet.words
    assert [attributes.get("class") for tag, attributes in sheet.tags if tag == "li"] == [None, "right"]
    assert [attributes["alt"] for tag, attributes in sheet.tags if tag == "img"] == ["red heart", "rose"]


def test_the_sheet_shows_the_picture_of_a_picture_query() -> None:
    sheet = page(Finding(DemoQuery("octopus, cropped", b"\x89PNG query", frozenset()), answer(Record("rose", "rose"))))
    assert [attributes["alt"] for tag, attributes in sheet.tags if tag == "img"] == ["query: octopus, cropped", "rose"]


def test_the_sheet_fetches_nothing_and_runs_nothing() -> None:
    sheet = page(Finding(DemoQuery("a", b"\x89PNG", frozenset()), answer(Record("rose", "rose"))))
    assert {tag for tag, _ in sheet.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    for _, attributes in sheet.tags:
        assert (attributes.get("src") or "data:").startswith("data:image/png;base64,") or "src" not in attributes
        assert not any(name.startswith("on") or name == "href" for name in attributes)


def test_the_sheet_escapes_every_text() -> None:
    hostile = '"><script>alert(1)</script>&'
    sheet = page(
        Finding(DemoQuery(hostile, b"\x89PNG", frozenset({"rose"})), answer(Record("rose", hostile))),
        Finding(DemoQuery(hostile, None, frozenset()), answer(Record(hostile, hostile), Record(hostile))),
    )
    assert "script" not in {tag for tag, _ in sheet.tags}
    assert sheet.words.count(hostile) == 5
