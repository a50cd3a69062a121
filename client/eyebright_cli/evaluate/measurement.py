"""What ``eyebright evaluate`` measures: each way of searching a collection, against comparing everything.

Owns the searches and what is counted. Prints nothing; ``metrics`` holds the arithmetic.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from eyebright_client import Client, Embeddings, SearchResult

from eyebright_cli.evaluate.metrics import (
    Estimate,
    ann_recalls,
    first_ranks,
    found_within,
    mean,
    median,
    ranks_by_score,
    reciprocal,
)
from eyebright_cli.evaluate.queries import CaptionQuery

TASK_HITS = (1, 5, 10, 50, 100)
ANN_HITS = (10, 100)
TIMED_QUERIES = 100
_IDS_AT_A_TIME = 500
_CAPTIONS_AT_A_TIME = 64
_QUERIES_AT_A_TIME = 50
_IMAGE_TO_TEXT_ROWS = 256
_TIE = 1e-5
"""Cosines as close as this are of equal captions: float32 adds in whatever order."""

_VECTOR: tuple[Literal["vector"]] = ("vector",)

Advance = Callable[[int], object]
"""Told how many queries each step did."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of searching."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    """Of ``search``."""


EXACT = Way("exact", {"exact": True})
SERVED = Way("as served")


@dataclass(frozen=True, slots=True)
class Found:
    """What one way of searching found."""

    name: str
    recipe: str
    task: dict[int, Estimate]
    """Task recall@k by k."""
    mrr: Estimate
    median_rank: Estimate
    ann: dict[int, Estimate]
    """ANN recall@k of captions by k."""
    ann_images: Estimate | None
    """ANN recall@10 of records that stand as queries."""
    milliseconds: Estimate
    """Median wall time of one search by a caption's vector, for ten hits, as this client sees it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All that was measured of a collection."""

    collection: str
    records: int
    captions: int
    pictures: int
    """Records that captions were asked of."""
    images: int
    """Records that stood as queries."""
    depth: int
    """The last rank that counts as found."""
    ways: list[Found]
    image_to_text: dict[int, Estimate] | None
    """Recall@k by k: the share of pictures that have one of their own captions among the k best of all captions."""


def missing(client: Client, queries: Sequence[CaptionQuery]) -> list[str]:
    """Ids of queries that the collection does not have, in order."""
    ids = list(dict.fromkeys(query.id for query in queries))
    absent = []
    for begin in range(0, len(ids), _IDS_AT_A_TIME):
        part = ids[begin : begin + _IDS_AT_A_TIME]
        found = client.get_many(part, include=())
        absent += [own for own, record in zip(part, found, strict=True) if record is None]
    return absent


def embed(client: Client, queries: Sequence[CaptionQuery], advance: Advance) -> Embeddings:
    """Vectors of all captions. Raises the error of one that can't be embedded."""
    parts = []
    for begin in range(0, len(queries), _CAPTIONS_AT_A_TIME):
        captions = [query.caption for query in queries[begin : begin + _CAPTIONS_AT_A_TIME]]
        part = client.embed_texts(captions, priority="bulk")
        for error in part.errors.values():
            raise error
        parts.append(part)
        advance(len(captions))
    vectors = np.concatenate([part.vectors for part in parts])
    return Embeddings(vectors, parts[0].fingerprint, "text")


class Evaluator:
    """Searches one collection in one way after another."""

    def __init__(
        self, client: Client, queries: Sequence[CaptionQuery], captions: Embeddings, images: Sequence[str], depth: int
    ) -> None:
        """``images``: ids of records that stand as queries."""
        self._client, self._captions, self._images, self._depth = client, captions, list(images), depth
        self._own = [{query.id} for query in queries]
        self._exact: dict[int, list[tuple[str, ...]]] = {}
        self._exact_images: list[tuple[str, ...]] = []

    def steps(self) -> int:
        """Queries that ``measure`` answers for one way."""
        return len(self._depths()) * len(self._captions) + len(self._images) + min(TIMED_QUERIES, len(self._captions))

    def measure(self, way: Way, advance: Advance) -> Found:
        """The exact way must come first: the others are held against it."""
        results = {depth: self._answers(way, depth, advance) for depth in self._depths()}
        answers = {depth: [result.ids for result in own] for depth, own in results.items()}
        images = self._answers_of_images(way, advance)
        if not self._exact:
            self._exact, self._exact_images = answers, images
        ranks = {depth: first_ranks(own, self._own) for depth, own in answers.items()}
        task = {k: mean(found_within(ranks[self._depth_for(k)], k)) for k in TASK_HITS}
        evidence = results[self._depth_for(10)][0].evidence
        return Found(
            name=way.name,
            recipe="" if evidence is None else evidence.recipe,
            task=task,
            mrr=mean(reciprocal(ranks[self._depth])),
            median_rank=median(ranks[self._depth]),
            ann={k: self._ann(answers[self._depth_for(k)], self._exact[self._depth_for(k)], k) for k in ANN_HITS},
            ann_images=self._ann(images, self._exact_images, 10) if images else None,
            milliseconds=self._milliseconds(way, advance),
        )

    def _depths(self) -> list[int]:
        """Numbers of hits to ask for: as many as a caller would for what is counted, so that no index is helped."""
        return sorted({min(10, self._depth), min(100, self._depth), self._depth})

    def _depth_for(self, k: int) -> int:
        return next((depth for depth in self._depths() if depth >= k), self._depth)

    def _answers(self, way: Way, k: int, advance: Advance) -> list[SearchResult]:
        found: list[SearchResult] = []
        for begin in range(0, len(self._captions), _QUERIES_AT_A_TIME):
            vectors = self._captions.vectors[begin : begin + _QUERIES_AT_A_TIME]
            part = Embeddings(vectors, self._captions.fingerprint, "text")
            found += _sound(self._client.search_many(vectors=part, k=k, include=(), **way.options))
            advance(len(vectors))
        return found

    def _answers_of_images(self, way: Way, advance: Advance) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for begin in range(0, len(self._images), _QUERIES_AT_A_TIME):
            part = self._images[begin : begin + _QUERIES_AT_A_TIME]
            found += [own.ids for own in _sound(self._client.search_many(likes=part, k=10, include=(), **way.options))]
            advance(len(part))
        return found

    def _milliseconds(self, way: Way, advance: Advance) -> Estimate:
        milliseconds = []
        for caption in self._captions[:TIMED_QUERIES]:
            began = time.perf_counter()
            self._client.search(vector=caption, k=10, include=(), **way.options)
            milliseconds.append(1e3 * (time.perf_counter() - began))
            advance(1)
        return median(np.array(milliseconds))

    @staticmethod
    def _ann(found: list[tuple[str, ...]], exact: list[tuple[str, ...]], k: int) -> Estimate:
        return mean(ann_recalls(found, exact, k))


def image_to_text(client: Client, queries: Sequence[CaptionQuery], captions: Embeddings) -> dict[int, Estimate]:
    """Recall@k of pictures asking for captions, by comparing each stored vector with every caption, by k.

    The other half of the protocol of Karpathy and Fei-Fei: a picture succeeds with any of its own captions.
    """
    ids = list(dict.fromkeys(query.id for query in queries))
    of_caption = np.array([query.id for query in queries])
    ranks = []
    for begin in range(0, len(ids), _IMAGE_TO_TEXT_ROWS):
        part = ids[begin : begin + _IMAGE_TO_TEXT_ROWS]
        records = client.get_many(part, include=_VECTOR)
        vectors = np.stack([record.vector for record in records if record is not None and record.vector is not None])
        right = np.array(part)[:, None] == of_caption
        ranks.append(ranks_by_score(vectors @ captions.vectors.T, right, _TIE))
    return {k: mean(found_within(np.concatenate(ranks), k)) for k in TASK_HITS}


def _sound(results: Sequence[SearchResult]) -> Sequence[SearchResult]:
    for result in results:
        if result.error is not None:
            raise result.error
    return results
