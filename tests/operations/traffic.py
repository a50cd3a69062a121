"""Traffic on both services through the SDK: what several people and programs at once ask for.

Two collections: ``gallery`` holds pictures of the demo gallery, ``points`` vectors that were made up, enough of them
that they are searched by codes and not exactly.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from eyebright_cli.demo.gallery import Picture, gallery_tar, read_gallery
from eyebright_client import Client, DeadlineExceeded, F, InvalidArgument, ResourceExhausted

from tests.cross_modal import pictures_and_captions

GALLERY, POINTS = "gallery", "points"
DIMENSION = 128
FINGERPRINT = "ab" * 32

_HITS = 5
"""So few that their candidates, 200 each, are less than a twentieth of the points; past that a search is exact."""

_WRITTEN_AT_ONCE = 64
_INDEXED_AT_ONCE = 48
_PICTURES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class User:
    """Does one thing again and again, ``pace`` times a second if it is as quick as that."""

    act: Callable[[], object]
    pace: float


class Traffic:
    """What is asked, drawn by a seed. Its methods may be called by many threads."""

    def __init__(self, client: Client, *, pictures: int, points: int, seed: int = 0) -> None:
        self._client = client
        self._random = random.Random(seed)
        with gallery_tar() as tar:
            gallery = read_gallery(tar)
        self._pictures: list[Picture] = self._random.sample(list(gallery.values()), pictures)
        self._points, self._asked = pictures_and_captions(points, DIMENSION, seed)
        self._words = sorted({word for picture in gallery.values() for word in picture.label.split()})

    def fill(self) -> None:
        """Make both collections."""
        self._index(self._pictures)
        self._client.create_collection(POINTS, shard_count=1, dimension=DIMENSION, fingerprint=FINGERPRINT)
        for first in range(0, len(self._points), 1024):
            self._write(range(first, min(first + 1024, len(self._points))))

    def users(self) -> list[User]:
        """People who search, a program that writes, one that indexes, and some who do wrong."""
        return [
            User(self.search_by_new_words, 6),
            User(self.search_by_known_words, 10),
            User(self.search_by_picture, 4),
            User(self.search_points, 30),
            User(self.search_points, 30),
            User(self.replace_points, 2),
            User(self.delete_a_point, 1),
            User(self.index_again, 0.5),
            User(self.send_what_is_no_picture, 0.5),
            User(self.give_up_at_once, 0.2),
        ]

    def search_by_new_words(self) -> None:
        """A caption that the embedder's cache does not know."""
        self._client.search(" ".join(self._random.sample(self._words, 4)), collection=GALLERY)

    def search_by_known_words(self) -> None:
        """A label of the gallery, among pictures with long labels."""
        label = self._random.choice(self._pictures).label
        self._client.search(label, collection=GALLERY, filter=F("letters") >= 8)

    def search_by_picture(self) -> None:
        """A picture of the gallery."""
        self._client.search(image=self._random.choice(self._pictures).png, collection=GALLERY, include=())

    def search_points(self) -> None:
        """One of the captions that were made up with the points."""
        asked = self._asked[self._random.randrange(len(self._asked))]
        self._client.search(vector=asked, k=_HITS, collection=POINTS, modality="text", include=())

    def replace_points(self) -> None:
        """Points that are written again leave tombstones."""
        self._write(self._random.sample(range(len(self._points)), _WRITTEN_AT_ONCE))

    def delete_a_point(self) -> None:
        """One of them, which may be gone already."""
        self._client.delete(self._name(self._random.randrange(len(self._points))), collection=POINTS)

    def index_again(self) -> None:
        """Pictures that changed. They are embedded as bulk work, over a stream."""
        self._index(self._random.sample(self._pictures, _INDEXED_AT_ONCE))

    def embed_pictures(self) -> None:
        """As many as make one request, for somebody who waits."""
        self._client.embed_images([picture.png for picture in self._random.sample(self._pictures, _PICTURES_AT_ONCE)])

    def send_what_is_no_picture(self) -> None:
        """Refused by name."""
        with suppress(InvalidArgument):
            self._client.embed_images(b"no picture")

    def give_up_at_once(self) -> None:
        """A caller without patience."""
        with suppress(DeadlineExceeded, ResourceExhausted):
            words = " ".join(self._random.sample(self._words, 4))
            self._client.search(words, collection=GALLERY, timeout=0.002)

    def _index(self, pictures: Sequence[Picture]) -> None:
        self._client.index_images(
            {picture.key: picture.png for picture in pictures},
            collection=GALLERY,
            captions={picture.key: picture.label for picture in pictures},
            metadata={picture.key: {"letters": len(picture.label)} for picture in pictures},
            resume=False,
            on_error="raise",
        )

    def _write(self, numbers: Sequence[int]) -> None:
        report = self._client.upsert(
            [self._name(number) for number in numbers],
            self._points[np.asarray(numbers)],
            collection=POINTS,
            fingerprint=FINGERPRINT,
        )
        assert not report.failed

    @staticmethod
    def _name(number: int) -> str:
        return f"{number:06d}"


@contextmanager
def going_on(users: Sequence[User], intensity: Callable[[], float] = lambda: 1.0) -> Iterator[None]:
    """Every user in a thread of its own, for the length of a block; ``intensity`` multiplies each pace.

    Raises what the first that failed was told, at the end of the block.
    """
    over = threading.Event()
    errors: list[BaseException] = []

    def go_on(user: User, seed: int) -> None:
        jitter = random.Random(seed)
        try:
            while not over.is_set():
                began = time.monotonic()
                user.act()
                pause = jitter.expovariate(user.pace * intensity())
                over.wait(max(0.0, pause - (time.monotonic() - began)))
        except BaseException as error:
            errors.append(error)
            over.set()

    threads = [threading.Thread(target=go_on, args=(user, seed)) for seed, user in enumerate(users)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
