"""What is wrong is refused with its field and both values; the rest succeeds; the services stay healthy."""

import re
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from eyebright_client import (
    AlreadyExists,
    Client,
    EyebrightError,
    FailedPrecondition,
    FingerprintMismatch,
    ImageItem,
    ImageUnreadable,
    InvalidArgument,
    NotFound,
    Record,
)

from tests.integration.client.conftest import MakeClient, unused_name
from tests.integration.client.facade import picture, png
from tests.processes import RunningService

GOOD = png(picture(1))
ONE_PIXEL = png(picture(1).resize((1, 1)))


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG whose header states a size and whose pixels are missing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "text": (b"this is no picture", "not 18 bytes"),
    "empty": (b"", "0 bytes"),
    "truncated": (GOOD[: len(GOOD) // 2], "."),
    "huge": (png_that_claims(50_000, 50_000), "50000|50,000|2500000000|2,500,000,000"),
    "heavy": (bytes(21 * 1024 * 1024), "20971520 bytes of encoded image, not 22020096"),
    "missing": (Path("/nowhere/picture.png"), "/nowhere/picture.png"),
}


@pytest.fixture(scope="module")
def filled(make_client: MakeClient, embedder: RunningService, index: RunningService) -> Client:
    """A client whose collection holds a picture, and what earlier tests of this module wrote."""
    client = make_client(embedder.address, index.address, collection=unused_name())
    client.index_images({"good": GOOD})
    return client


@pytest.fixture
def new() -> str:
    """A prefix for the ids of one test."""
    return unused_name()


def has(client: Client, *ids: str) -> list[bool]:
    """Which of the ids the collection has."""
    return [record is not None for record in client.get_many(ids)]


@pytest.mark.parametrize(("image", "says"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_a_bad_image_fails_alone(filled: Client, image: Any, says: str, new: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as alone:
        filled.embed_images(image)
    assert alone.value.position is None
    with pytest.raises(InvalidArgument, match=says):
        filled.search(image=image)
    batch = filled.embed_images([GOOD, image, ONE_PIXEL])
    assert {position: type(error) for position, error in batch.errors.items()} == {1: type(alone.value)}
    assert batch.errors[1].position == 1
    assert batch[0].vector.any()
    assert batch[2].vector.any()
    ids = [f"{new}-{name}" for name in ("before", "bad", "after")]
    report = filled.index_images(dict(zip(ids, (GOOD, image, ONE_PIXEL), strict=True)))
    assert report.indexed == 2
    assert [(failure.position, failure.id) for failure in report.failed] == [(1, ids[1])]
    assert report.failed[0].error.position == 1
    assert has(filled, *ids) == [True, False, True]


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "0 bytes"), (" \n", "white space"), ("x" * 2**20, "32768 bytes, not 1048576"), ("\ud800", "Unicode")],
    ids=["empty", "blank", "megabyte", "surrogate"],
)
def test_a_bad_caption_fails_alone(filled: Client, text: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as alone:
        filled.search(text)
    assert alone.value.position is None
    assert set(filled.embed_texts(["a dog", text, "a cat"]).errors) == {1}


def test_on_error_raise_ends_the_run(filled: Client) -> None:
    with pytest.raises(ImageUnreadable, match=r"/nowhere/a\.png"):
        filled.index_images({"a": "/nowhere/a.png"}, on_error="raise")
    with pytest.raises(InvalidArgument, match="not 10 bytes"):
        filled.index_images({"a": b"no picture", "b": GOOD}, on_error="raise")


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


BAD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
    "long id": ({"id": "x" * 10_240}, "512 bytes, not 10240"),
    "no id": ({"id": ""}, "512 bytes, not 0"),
    "number as id": ({"id": 7}, "expected text, not int"),
    "surrogate in id": ({"id": "a\udc80"}, "surrogates"),
    "deep metadata": ({"metadata": deep(1000)}, "deep|32"),
    "deeper metadata": ({"metadata": deep(100_000)}, "nested too deep"),
    "large metadata": ({"metadata": {"a": "x" * 70_000}}, "64 KiB|65,?536"),
    "NaN in metadata": ({"metadata": {"a": float("nan")}}, "JSON compliant"),
    "object in metadata": ({"metadata": {"a": object()}}, "not JSON serializable"),
    "list as metadata": ({"metadata": [1]}, "expected a mapping, not list"),
    "long caption": ({"caption": "x" * 40_000}, "32 KiB|32,?768"),
    "enormous caption": ({"caption": "x" * 2**20}, "131072 bytes"),
    "long source_uri": ({"source_uri": "x" * 5_000}, "4 KiB|4,?096"),
}


@pytest.mark.parametrize(("parts", "says"), BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_a_bad_record_fails_alone(filled: Client, parts: dict[str, Any], says: str, new: str) -> None:
    bad = {"id": new} | parts
    ids = [f"{new}-{name}" for name in "abcd"]
    report = filled.index_images([ImageItem(ids[0], GOOD), ImageItem(image=GOOD, **bad), ImageItem(ids[1], GOOD)])
    assert report.indexed == 2
    (failure,) = report.failed
    assert (failure.position, failure.id) == (1, bad["id"])
    assert isinstance(failure.error, InvalidArgument)
    vector = filled.embed_images(GOOD)[0].vector
    written = filled.upsert_records(
        [Record(ids[2], vector=vector), Record(vector=vector, **bad), Record(ids[3], vector=vector)]
    )
    assert written.written == 2
    assert [one.position for one in written.failed] == [1]
    assert re.search(says, str(failure.error))
    assert re.search(says, str(written.failed[0].error))
    assert has(filled, *ids, new) == [True] * 4 + [False]


def test_equal_ids_the_second_fails(filled: Client, new: str) -> None:
    report = filled.index_images(ImageItem(f"{new}{name}", GOOD) for name in ("a", "b", "a"))
    assert report.indexed == 2
    assert [(failure.position, failure.id) for failure in report.failed] == [(2, f"{new}a")]
    vectors = np.ones((3, filled.model().dimension))
    assert [one.position for one in filled.upsert(["x", "x", "y"], vectors).failed] == [1]


def test_bad_vectors_fail_alone(filled: Client) -> None:
    dimension = filled.model().dimension
    vectors = np.ones((5, dimension))
    vectors[1] = 0
    vectors[2, 3] = np.nan
    vectors[3, 3] = 1e300
    report = filled.upsert(["a", "b", "c", "d", "e"], vectors)
    assert report.written == 2
    assert [failure.id for failure in report.failed] == ["b", "c", "d"]
    results = filled.search_many(vectors=vectors, k=1)
    assert [result.error is None for result in results] == [True, False, False, False, True]
    with pytest.raises(InvalidArgument, match="finite"):
        filled.search(vector=vectors[2])
    with pytest.raises(InvalidArgument, match="finite"):
        filled.upsert("c", vectors[2])
    failed = filled.embed_images([GOOD, b"x"])
    report = filled.upsert(["f", "g"], failed)
    assert report.written == 1
    assert report.failed[0].id == "g"


REQUEST_FAULTS: dict[str, tuple[Any, type[EyebrightError], str]] = {
    "k 0": (lambda c: c.search("x", k=0), InvalidArgument, "k: expected 1 to 100,?000, not 0"),
    "k 100,001": (lambda c: c.search("x", k=100_001), InvalidArgument, "k: .*100,?000.*100,?001"),
    "k negative": (lambda c: c.search("x", k=-1), InvalidArgument, "k: .*not -1"),
    "k boolean": (lambda c: c.search("x", k=True), InvalidArgument, "k: .*not True"),
    "k text": (lambda c: c.search("x", k="ten"), InvalidArgument, "k: .*'ten'"),
    "offset": (lambda c: c.search("x", k=1, offset=100_000), InvalidArgument, "offset"),
    "collection": (lambda c: c.search("x", collection="nobody"), NotFound, "'nobody'"),
    "count": (lambda c: c.count(collection="nobody"), NotFound, "'nobody'"),
    "vector in nobody": (lambda c: c.search(vector=np.ones(4), collection="nobody"), NotFound, "'nobody'"),
    "upsert to nobody": (lambda c: c.upsert("a", np.ones(4), collection="nobody"), NotFound, "'nobody'"),
    "dimension": (lambda c: c.search(vector=np.ones(3)), InvalidArgument, r"expected \d+ dimensions, not 3"),
    "write dimension": (lambda c: c.upsert("a", np.ones(3)), InvalidArgument, r"expected \d+ dimensions, not 3"),
    "shape": (lambda c: c.search(vector=np.ones((2, 3))), InvalidArgument, r"\(dimension,\), not \(2, 3\)"),
    "no numbers": (lambda c: c.search(vector=["a"]), InvalidArgument, "expected numbers"),
    "rows": (lambda c: c.upsert(["a", "b"], np.ones((3, 4))), InvalidArgument, "expected 2 rows, one per id, not 3"),
    "captions": (
        lambda c: c.upsert(["a"], np.ones((1, 4)), captions=["x", "y"]),
        InvalidArgument,
        "1, one per id, not 2",
    ),
    "fingerprint": (
        lambda c: c.upsert("a", np.ones(c.model().dimension), fingerprint="0" * 64),
        FingerprintMismatch,
        "[1-9a-f].*0{64}|0{64}.*[1-9a-f]",
    ),
    "two queries": (lambda c: c.search("x", like="y"), InvalidArgument, "exactly one of .*, not text, like"),
    "no query": (lambda c: c.search(), InvalidArgument, "exactly one of .*, not none"),
    "modality": (lambda c: c.search("x", modality="image"), InvalidArgument, "not with text"),
    "include": (lambda c: c.search("x", include=["pixels"]), InvalidArgument, "pixels"),
    "include string": (lambda c: c.search("x", include="caption"), InvalidArgument, "caption"),
    "include at large k": (lambda c: c.search("x", k=1001, include=["caption"]), InvalidArgument, "1,?000"),
    "like nobody": (lambda c: c.search(like="nobody"), NotFound, "'nobody'"),
    "get nobody": (lambda c: c.get("nobody"), NotFound, "'nobody'"),
    "update nobody": (lambda c: c.update("nobody", caption="x"), NotFound, "'nobody'"),
    "update nothing": (lambda c: c.update("good"), InvalidArgument, "at least one"),
    "delete long id": (lambda c: c.delete("x" * 10_240), InvalidArgument, "512 bytes, not 10240"),
    "one string as ids": (lambda c: c.get_many("abc"), InvalidArgument, "not one string"),
    "page size": (lambda c: list(c.list(page_size=1001)), InvalidArgument, "1,?000.*1,?001"),
    "create again": (lambda c: c.create_collection(), AlreadyExists, "."),
    "create other metric": (
        lambda c: c.create_collection(metric="l2", exist_ok=True),
        AlreadyExists,
        "'cosine', not 'l2'",
    ),
    "create other model": (
        lambda c: c.create_collection(fingerprint="0" * 64, exist_ok=True),
        FingerprintMismatch,
        "0{64}",
    ),
    "metric": (lambda c: c.create_collection("new", metric="manhattan"), InvalidArgument, "manhattan"),
    "name": (lambda c: c.create_collection("No Name!"), InvalidArgument, "name"),
    "shards": (lambda c: c.create_collection("new", shard_count=257), InvalidArgument, "256.*257"),
    "timeout": (lambda c: c.search("x", timeout=0), InvalidArgument, "timeout: .*not 0"),
    "batch size": (lambda c: c.index_images({}, batch_size=0), InvalidArgument, "batch_size"),
    "on_error": (lambda c: c.index_images({}, on_error="ignore"), InvalidArgument, "ignore"),
    "images": (lambda c: c.index_images([GOOD]), InvalidArgument, "ImageItem, not bytes"),
}


@pytest.mark.parametrize(("ask", "kind", "says"), REQUEST_FAULTS.values(), ids=REQUEST_FAULTS)
def test_request_faults_are_raised(filled: Client, ask: Any, kind: type[EyebrightError], says: str) -> None:
    with pytest.raises(kind, match=says):
        ask(filled)
    assert filled.get("good").id == "good"
    assert len(filled.search("a circle", k=np.int64(1))) == 1  # type: ignore[arg-type]


def test_a_collection_of_another_model_is_refused_before_anything_is_sent(client: Client) -> None:
    client.create_collection(fingerprint="b" * 64)

    def never() -> Iterator[ImageItem]:
        raise AssertionError("read")
        yield

    with pytest.raises(FingerprintMismatch) as caught:
        client.index_images(never())
    assert "b" * 64 in str(caught.value)
    assert client.model().fingerprint in str(caught.value)
    with pytest.raises(FailedPrecondition, match=r"b{64}"):
        client.search("a circle")


def test_errors_name_the_request_that_the_service_logged(filled: Client, index: RunningService) -> None:
    with pytest.raises(NotFound) as caught:
        filled.get("nobody", collection="nowhere")
    assert caught.value.request_id is not None
    assert caught.value.request_id in str(caught.value)
    deadline = time.monotonic() + 30
    while caught.value.request_id not in index.log.read_text("utf-8"):  # written after the answer was sent
        assert time.monotonic() < deadline
        time.sleep(0.01)
