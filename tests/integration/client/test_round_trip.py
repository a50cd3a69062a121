"""From pictures to hits, through both real services."""

import io
from pathlib import Path

import numpy as np
import pytest
from eyebright_client import Client, EmbedderNotConfigured, Image, ImageItem, Progress
from PIL import Image as Pillow

from tests.integration.client.conftest import MakeClient
from tests.integration.client.facade import picture
from tests.processes import RunningService


def test_pictures_are_found_by_picture_caption_vector_and_likeness(
    client: Client, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "p07.png"
    file.write_bytes(pictures["p07"])
    images: dict[str, Image] = {**pictures, "p07": file, "p08": picture(8)}
    seen: list[Progress] = []
    report = client.index_images(
        images,
        captions={"p07": "a shape"},
        metadata={"p07": {"n": 2**63, "tags": ["x"]}},
        source_uris={"p07": str(file)},
        batch_size=16,
        progress=seen.append,
    )
    assert (report.indexed, report.skipped, report.failed) == (60, 0, ())
    assert report.seconds > 0
    assert seen[-1] == Progress(done=60, total=60, failed=0, skipped=0)
    assert [one.done for one in seen] == sorted({one.done for one in seen})
    assert client.count() == 60

    queries: tuple[Image, ...] = (file, pictures["p07"], picture(7))
    for query in queries:
        best = client.search(image=query, k=1)[0]
        assert (best.id, best.probability, best.vector) == ("p07", None, None)
        assert (best.caption, best.source_uri) == ("a shape", str(file))
        assert best.metadata == {"n": 2**63, "tags": ["x"]}
        assert best.score > 0.999

    caption = f"a red circle {tmp_path.name}"  # embedded before, it would take no forward pass
    result = client.search(caption, k=5)
    assert len(result) == 5
    assert list(result.scores) == sorted(result.scores, reverse=True)
    model = client.model()
    for hit in result:
        assert hit.probability == pytest.approx(float(model.probability(hit.score)))
    assert result.evidence is not None
    assert result.evidence.exact
    assert result.evidence.rows_scanned == 60
    stages = result.stages
    assert stages.forward_seconds > 0
    assert stages.shard_search_seconds > 0
    assert stages.total_seconds >= stages.forward_seconds + stages.shard_search_seconds

    embedding = client.embed_texts(caption)[0]
    assert client.search(vector=embedding, k=5).ids == result.ids
    assert client.search(vector=embedding, k=5).probabilities is not None
    assert client.search(vector=embedding.vector, k=5).probabilities is None
    assert client.search(vector=embedding.vector, k=5, modality="text").probabilities is not None
    assert "p07" not in client.search(like="p07", k=60).ids
    assert client.search(like="p07", k=60).probabilities is None


def test_pages_scores_and_includes(client: Client, pictures: dict[str, bytes]) -> None:
    client.index_images(pictures, captions=dict.fromkeys(pictures, "shape"))
    whole = client.search(image=pictures["p00"], k=20)
    assert client.search(image=pictures["p00"], k=10, offset=10).ids == whole.ids[10:]
    floor = float(whole.scores[4])
    assert len(client.search(image=pictures["p00"], k=20, min_score=floor)) == 5
    assert client.search(image=pictures["p00"], k=1, include=())[0].caption is None
    assert client.search(image=pictures["p00"], k=1, include=["caption"])[0].caption == "shape"
    with_vectors = client.search(image=pictures["p00"], k=3, include=["vector"])
    assert with_vectors.vectors is not None
    assert with_vectors.vectors.shape == (3, client.model().dimension)
    assert np.linalg.norm(with_vectors.vectors[0]) == pytest.approx(1.0, abs=1e-3)
    assert client.search(image=pictures["p00"], k=1001)[0].caption is None  # nothing was asked for, nothing is refused
    assert len(client.search(image=pictures["p00"], k=100_000)) == 60


def test_many_queries_keep_their_order_and_fail_alone(client: Client, pictures: dict[str, bytes]) -> None:
    client.index_images(pictures)
    texts = client.search_many(texts=["a red circle", " ", "a blue square"], k=3)
    assert [result.error is None for result in texts] == [True, False, True]
    assert texts[0].ids == client.search("a red circle", k=3).ids
    assert texts[2].ids == client.search("a blue square", k=3).ids
    images = client.search_many(images=[pictures["p03"], b"no image", "/missing.png", pictures["p05"]], k=1)
    assert [result.ids for result in images] == [("p03",), (), (), ("p05",)]
    assert [result.error.position for result in images if result.error] == [1, 2]
    likes = client.search_many(likes=["p03", "nobody"], k=2)
    assert len(likes[0]) == 2
    assert likes[1].error is not None
    embeddings = client.embed_images([pictures["p03"], b"no image", pictures["p05"]])
    vectors = client.search_many(vectors=embeddings, k=1)
    assert [result.ids for result in vectors] == [("p03",), (), ("p05",)]
    many = client.search_many(vectors=np.tile(embeddings[0].vector, (25, 1)), k=1000)  # three requests
    assert len(many) == 25
    assert {result.ids for result in many} == {many[0].ids}
    assert client.search_many(texts=[]) == ()


def test_many_queries_whose_hits_carry_more_than_a_message_holds(index: RunningService, collection: str) -> None:
    with Client(None, index.address, collection=collection) as client:
        client.create_collection(dimension=8, fingerprint="a" * 64)
        vectors = np.eye(8).repeat(8, axis=0) + np.linspace(0, 0.1, 64)[:, np.newaxis]
        ids = [f"{number:02}" for number in range(64)]
        client.upsert(ids, vectors, captions=["x" * 30_000] * 64, metadata=[{"a": "y" * 60_000}] * 64)
        results = client.search_many(vectors=vectors[:16], k=64)  # 92 MB
        assert [len(result) for result in results] == [64] * 16
        assert all(result[0].caption == "x" * 30_000 for result in results)
        alone = [client.search(vector=vector, k=64, include=()) for vector in vectors[:16]]
        assert [result.ids for result in results] == [result.ids for result in alone]


def test_captions_are_remembered_unless_they_are_to_be_computed_anew(client: Client) -> None:
    client.embed_texts("a caption asked twice")
    remembered = client.embed_texts("a caption asked twice")
    anew = client.embed_texts("a caption asked twice", recompute=True)
    assert remembered.timings.forward_seconds == 0
    assert anew.timings.forward_seconds > 0
    np.testing.assert_allclose(anew.vectors, remembered.vectors, atol=1e-6)


def test_embeddings_are_unit_vectors_and_fail_alone(client: Client, pictures: dict[str, bytes]) -> None:
    words = "word " * 200
    texts = client.embed_texts(["a dog", "", words])
    assert texts.vectors.dtype == np.float32
    assert texts.vectors.shape == (3, client.model().dimension)
    assert np.linalg.norm(texts[0].vector) == pytest.approx(1.0, abs=1e-5)
    assert set(texts.errors) == {1}
    assert not texts.vectors[1].any()
    assert texts.truncated == {2}
    assert texts.fingerprint == client.model().fingerprint
    many = client.embed_texts([f"number {number}" for number in range(client.model().max_items + 3)])
    assert len(many) == client.model().max_items + 3
    assert not many.errors
    again = client.embed_texts(f"number {client.model().max_items + 1}")
    assert float(again[0].vector @ many[-2].vector) > 0.9999
    assert len(client.embed_images([])) == 0


def test_orientation_counts_for_files_and_objects_alike(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "turned.jpg"
    exif = Pillow.Exif()
    exif[0x0112] = 6
    picture(4).rotate(90, expand=True).save(file, "JPEG", exif=exif, quality=95)
    upright = io.BytesIO()
    picture(4).save(upright, "JPEG", quality=95)
    from_file, from_object, straight = client.embed_images([file, Pillow.open(file), upright.getvalue()]).vectors
    assert from_file @ from_object > 0.9999
    assert from_file @ straight > 0.99


def test_collections(client: Client, collection: str) -> None:
    made = client.create_collection(shard_count=3)
    assert (made.name, made.shard_count, made.metric) == (collection, 3, "cosine")
    assert made.fingerprint == client.model().fingerprint
    assert client.create_collection(exist_ok=True) == made == client.get_collection()
    assert made in client.list_collections()
    client.delete_collection()
    assert collection not in {one.name for one in client.list_collections()}


def test_a_client_without_embedder_takes_vectors_only(
    make_client: MakeClient, index: RunningService, collection: str
) -> None:
    client = make_client(None, index.address, collection=collection)
    client.wait_until_ready(10)
    client.create_collection(dimension=8, fingerprint="a" * 64, metric="l2")
    vectors = np.eye(3, 8, dtype=np.float32)
    report = client.upsert(["a", "b", "c"], vectors, captions=["A", None, "C"], metadata=[{"n": 1}, None, None])
    assert (report.written, report.failed) == (3, ())
    result = client.search(vector=vectors[2], k=2, modality="text")
    assert result[0].id == "c"
    assert result[0].score == pytest.approx(0.0, abs=1e-6)
    assert result[0].probability is None
    assert result[0].caption == "C"
    for ask in (
        lambda: client.search("a caption"),
        lambda: client.search(image=b"x"),
        lambda: client.embed_texts(["x"]),
        lambda: client.index_images({"a": b"x"}),
        lambda: client.model(),
        lambda: client.create_collection("other"),
    ):
        with pytest.raises(EmbedderNotConfigured, match="embedder=None"):
            ask()


def test_records(client: Client, pictures: dict[str, bytes]) -> None:
    client.index_images(
        ImageItem(name, data, caption=f"picture {name}", metadata={"name": name}, source_uri=f"mem:{name}")
        for name, data in pictures.items()
    )
    assert [record.id for record in client.list(page_size=7)] == sorted(pictures)
    assert client.get("p01").caption == "picture p01"
    assert client.get("p01", include=()).caption is None
    found = client.get_many(["p02", "nobody", "p01"])
    assert [record and record.id for record in found] == ["p02", None, "p01"]
    client.update("p01", caption="new")
    client.update("p01", metadata={"other": [1, 2]})
    client.update("p01", source_uri="")
    changed = client.get("p01", include=["caption", "metadata", "source_uri", "vector"])
    assert (changed.caption, changed.metadata, changed.source_uri) == ("new", {"other": [1, 2]}, None)
    assert changed.vector is not None
    client.update("p01", caption="", metadata={})
    assert (client.get("p01").caption, client.get("p01").metadata) == (None, None)
    assert client.search(image=pictures["p01"], k=1)[0].id == "p01"
    assert client.delete(["p01", "p02", "nobody"]) == 2
    assert client.delete("p01") == 0
    assert client.count() == 58
    stats = client.stats()
    assert stats.record_count == sum(shard.record_count for shard in stats.shards) == 58
    assert stats.collection.name == client.get_collection().name


def test_records_move_between_collections(client: Client, pictures: dict[str, bytes]) -> None:
    client.index_images(pictures, captions={"p05": "five"})
    copy = f"{client.get_collection().name}-copy"
    client.create_collection(copy)
    records = list(client.list(include=["caption", "source_uri", "metadata", "vector"]))
    report = client.upsert_records(records, collection=copy)
    assert report.written == 60
    ours, theirs = (client.search(image=pictures["p05"], k=60, collection=name) for name in (None, copy))
    assert ours.ids == theirs.ids
    assert np.array_equal(ours.scores, theirs.scores)
    assert client.get("p05", collection=copy).caption == "five"
