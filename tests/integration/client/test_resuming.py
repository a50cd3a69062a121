"""Indexing can be interrupted, repeated, and cut off; what is reported agrees with what is there."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from eyebright_client import (
    Client,
    DeadlineExceeded,
    FingerprintMismatch,
    ImageItem,
    NotFound,
    Progress,
    Timeouts,
    Unavailable,
)

from tests.integration.client.conftest import MakeClient
from tests.integration.client.facade import Network, picture, png
from tests.processes import RunningService, start_service


def test_an_interrupted_run_is_resumed(client: Client, pictures: dict[str, bytes]) -> None:
    seen: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress)
        if progress.done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.index_images(pictures, batch_size=8, progress=interrupt)
    there = client.count()
    assert 20 <= seen[-1].done <= there < 60  # what was sent may have been written beyond what was acknowledged
    report = client.index_images(pictures, batch_size=8, progress=seen.append)
    there = 60 - report.indexed
    assert report.skipped == there >= 20
    assert (client.count(), report.failed) == (60, ())
    assert seen[-1] == Progress(done=60 - there, total=60, failed=0, skipped=there)
    again = client.index_images(pictures)
    assert (again.indexed, again.skipped) == (0, 60)


def test_without_resume_records_are_replaced(client: Client) -> None:
    client.index_images({"a": picture(1)}, captions={"a": "old"})
    skipped = client.index_images({"a": picture(2)}, captions={"a": "new"})
    assert (skipped.indexed, skipped.skipped, client.get("a").caption) == (0, 1, "old")
    replaced = client.index_images({"a": picture(2)}, captions={"a": "new"}, resume=False)
    assert (replaced.indexed, replaced.skipped, client.get("a").caption) == (1, 0, "new")
    assert client.search(image=picture(2), k=1)[0].score > 0.999
    assert client.count() == 1


def test_skipped_files_are_not_read(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(picture(1)))
    client.index_images({"a": file})
    file.unlink()
    report = client.index_images({"a": file})
    assert (report.skipped, report.failed) == (1, ())


def test_a_long_generator_is_read_only_a_little_ahead(client: Client, pictures: dict[str, bytes]) -> None:
    data = list(pictures.values())
    taken = 0
    farthest = 0

    def items() -> Iterator[ImageItem]:
        nonlocal taken, farthest
        for number in range(120):
            taken += 1
            farthest = max(farthest, taken - done)
            yield ImageItem(f"{number:04}", data[number % len(data)])

    done = 0

    def progress(now: Progress) -> None:
        nonlocal done
        assert now.total is None
        done = now.done

    assert client.index_images(items(), batch_size=8, progress=progress).indexed == 120
    assert farthest <= 8 * 7


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_the_index_dies_and_comes_back(
    make_client: MakeClient,
    embedder: RunningService,
    pictures: dict[str, bytes],
    collection: str,
    tmp_path: Path,
    end: str,
) -> None:
    arguments = ("--data-folder", str(tmp_path / "data"), "--drain-seconds", "0.2")
    service = start_service("index_service", tmp_path, *arguments)
    again: list[RunningService] = []
    reported: list[int] = []

    def restart() -> None:
        port = service.address.rpartition(":")[2]
        again.append(start_service("index_service", tmp_path, *arguments, "--port", port))

    restarting = threading.Thread(target=restart)

    def progress(now: Progress) -> None:
        reported.append(now.done)
        if now.done >= 12 and restarting.ident is None:
            getattr(service, end)()
            restarting.start()

    client = make_client(embedder.address, service.address, collection=collection)
    try:
        report = client.index_images(pictures, batch_size=4, progress=progress)
        restarting.join()
        assert again[0].address == service.address
        assert (report.indexed, report.failed) == (60, ())
        assert reported[-1] == 60
        assert {record.id for record in client.list()} == set(pictures)
        assert client.search(image=pictures["p30"], k=1)[0].id == "p30"
    finally:
        if restarting.ident is not None:
            restarting.join()
        for running in (service, *again):
            if running.process.poll() is None:
                running.kill()


def test_cut_connections_lose_nothing(
    make_client: MakeClient,
    embedder: RunningService,
    index: RunningService,
    pictures: dict[str, bytes],
    collection: str,
) -> None:
    networks = [Network(embedder.address), Network(index.address)]
    cuts = 0

    def cut(now: Progress) -> None:
        nonlocal cuts
        if now.done < 40:
            networks[cuts % 2].cut()
            cuts += 1

    client = make_client(*(network.address for network in networks), collection=collection)
    try:
        report = client.index_images(pictures, batch_size=4, progress=cut)
        assert cuts >= 5
        assert (report.indexed, report.skipped, report.failed) == (60, 0, ())
        assert client.count() == 60
    finally:
        for network in networks:
            network.close()


def test_a_silent_index_ends_the_run_in_time(
    make_client: MakeClient,
    embedder: RunningService,
    index: RunningService,
    pictures: dict[str, bytes],
    collection: str,
) -> None:
    network = Network(index.address)
    client = make_client(embedder.address, network.address, collection=collection, timeouts=Timeouts(batch=4.0))
    client.create_collection()
    try:
        with pytest.raises(DeadlineExceeded, match="UpsertStream: no answer within 4 s"):
            client.index_images(pictures, batch_size=4, resume=False, progress=lambda _: network.silence())
    finally:
        network.close()


def test_an_outage_ends_the_run_at_last(
    make_client: MakeClient, embedder: RunningService, pictures: dict[str, bytes], collection: str, tmp_path: Path
) -> None:
    service = start_service("index_service", tmp_path, "--data-folder", str(tmp_path / "data"))
    client = make_client(embedder.address, service.address, collection=collection, timeouts=Timeouts(outage=0.5))
    done: list[int] = []

    def kill(now: Progress) -> None:
        done.append(now.done)
        service.kill()

    with pytest.raises(Unavailable, match=re.escape(service.address)):
        client.index_images(pictures, batch_size=4, progress=kill)
    assert done == [4]


def test_a_refusal_midway_is_told_as_it_is(client: Client, index: RunningService, pictures: dict[str, bytes]) -> None:
    collection = client.create_collection()

    def remake(_: Progress) -> None:
        with Client(None, index.address, collection=collection.name) as other:
            other.delete_collection()
            other.create_collection(dimension=collection.dimension, fingerprint="c" * 64)

    with pytest.raises((FingerprintMismatch, NotFound)):  # NotFound: a batch came in between the two
        client.index_images(pictures, batch_size=4, resume=False, progress=remake)
    assert client.get_collection().fingerprint == "c" * 64
    assert client.count() == 0
