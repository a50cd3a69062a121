"""A collection beside a model of it in memory: every operation is done to both, and every answer compared."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry

from index_service.catalog import Catalog
from index_service.collection import Collection, UpsertBatch
from index_service.compaction import Policy
from index_service.filters import AllOf, Comparison, Field, Filter, Kind, Not, Operator
from index_service.metrics import IndexMetrics
from index_service.recipes import Build, Effort, Recipe
from index_service.records import Record, RecordUpdate
from index_service.search import QueryAnswer, SearchOptions
from index_service.snapshot_task import Task
from index_service.snapshots import Snapshots
from index_service.vector_space import Metric, VectorSpace
from index_service.workers import Workers
from service_runtime.errors import NotFound

NAME = "world"
DIMENSION = 16
SHARDS = 2
IDS = 6_000
DIGITS = 10
POLICY = Policy(index_from_rows=300, seal_rows=256)
RECIPES = [None, *(Build(recipe) for recipe in Recipe), Build(Recipe.FASTSCAN, centred=True)]
EFFORTS = [None, Effort(k_factor=2.0), Effort(k_factor=5.0, probed_share=0.05, ef_search=20)]
"""Small ones: at the default nearly all of so few records are compared anyway."""


@dataclass(frozen=True)
class Known:
    """What a record must be."""

    record: Record
    vector: np.ndarray
    digit: int


def has_digit(digit: int) -> Filter:
    return Comparison(Field(("of", "digit")), Operator.EQUAL, Kind.NUMBER, digit)


class World:
    """The collection and its model. Operations raise AssertionError where they differ."""

    def __init__(self, folder: Path, metric: Metric, seed: int) -> None:
        self.space = VectorSpace(DIMENSION, "ab" * 32, metric)
        self.random = random.Random(seed)
        self.vectors = np.random.default_rng(seed)
        self.known: dict[str, Known] = {}
        self.approximate = 0
        self._folder = folder
        self._lives = 0
        self._writes = 0
        self._open_things = ExitStack()
        self._open(folder / "0")
        self._catalog.create(NAME, self.space, SHARDS)

    def close(self) -> None:
        self._open_things.close()

    @property
    def collection(self) -> Collection:
        return self._catalog.get(NAME)

    def upsert(self, ids: Sequence[str]) -> None:
        self._writes += 1
        vectors = self.vectors.standard_normal((len(ids), DIMENSION)).astype(np.float32)
        stored = self.space.prepare(vectors)[0].astype(np.float16)
        new = [self._made(own, vector) for own, vector in zip(ids, stored, strict=True)]
        assert self.collection.upsert([UpsertBatch([one.record for one in new], vectors)]) == [[None] * len(ids)]
        self.known.update(zip(ids, new, strict=True))

    def update(self, ids: Sequence[str]) -> None:
        self._writes += 1
        updates = [RecordUpdate(own, f"changed by {self._writes}", "" if self._writes % 2 else None) for own in ids]
        for own, update, fault in zip(ids, updates, self.collection.update(updates), strict=True):
            assert isinstance(fault, NotFound) == (own not in self.known)
            if known := self.known.get(own):
                source = None if update.source_uri == "" else known.record.source_uri
                record = Record(own, update.caption, source, known.record.metadata_json)
                self.known[own] = Known(record, known.vector, known.digit)

    def delete(self, ids: Sequence[str]) -> None:
        faults, deleted = self.collection.delete(ids)
        assert faults == [None] * len(ids)
        assert deleted == sum(self.known.pop(own, None) is not None for own in ids)

    def delete_matching(self, digit: int, at_least: str) -> None:
        where = AllOf((has_digit(digit), Comparison(Field(("id",)), Operator.GREATER_OR_EQUAL, Kind.STRING, at_least)))
        gone = [own for own, known in self.known.items() if known.digit == digit and own >= at_least]
        assert self.collection.delete_matching(where, None) == len(gone)
        for own in gone:
            del self.known[own]

    def get(self, ids: Sequence[str]) -> None:
        for own, stored in zip(ids, self.collection.read(ids, with_vectors=True), strict=True):
            known = self.known.get(own)
            assert (stored is None) == (known is None)
            if stored is not None and known is not None:
                assert stored.record == known.record
                assert np.array_equal(stored.vector, known.vector)  # type: ignore[arg-type]

    def list(self, size: int) -> None:
        listed: list[str] = []
        after = ""
        while True:
            page = self.collection.page(after, size, with_vectors=False, most_bytes=1_000_000)
            assert [stored.record for stored in page.records] == [
                self.known[stored.record.id].record for stored in page.records
            ]
            listed += [stored.record.id for stored in page.records]
            after = page.last_id
            if not after:
                break
        assert listed == sorted(self.known)

    def search(self, options: SearchOptions, digit: int | None = None, *, negated: bool = False) -> None:
        """Search by a vector; where ``digit`` is given, those that have it, or those that don't."""
        query = self.vectors.standard_normal((1, DIMENSION)).astype(np.float32)
        where = None if digit is None else Not(has_digit(digit)) if negated else has_digit(digit)
        let_through = [own for own, known in self.known.items() if digit is None or (known.digit == digit) != negated]
        options = SearchOptions(options.k, options.offset, options.min_score, options.exact, where=where)
        answer = self.collection.search_vectors(query, options)
        exact = answer.evidence.recipe is Recipe.EXACT
        assert exact or not options.exact
        self.approximate += not exact
        self._compare(answer.results[0], self.space.prepare(query)[0], let_through, options, exact=exact)

    def search_record(self, own: str, k: int) -> None:
        answer = self.collection.search_records([own], SearchOptions(k))
        if own not in self.known:
            assert isinstance(answer.results[0], NotFound)
            return
        others = [other for other in self.known if other != own]
        exact = answer.evidence.recipe is Recipe.EXACT
        query = self.known[own].vector.astype(np.float32)[None]
        self._compare(answer.results[0], query, others, SearchOptions(k), exact=exact)

    def compact(self, shard: int, *, idle: bool) -> None:
        self.collection.shards[shard].compact(idle=idle)

    def configure(self, build: Build | None, effort: Effort | None) -> None:
        if build is not None and (
            (build.centred and self.space.metric is Metric.L2)
            or (build.recipe is Recipe.LSH and self.space.metric is Metric.INNER_PRODUCT)
        ):
            return  # what the service refuses
        self.collection.configure(lambda config: config.chosen(build, effort))

    def restart(self) -> None:
        self.close()
        self._open(self._folder / str(self._lives))

    def crash(self) -> None:
        """Go on with the files as kill -9 would leave them."""
        old, self._lives = self._folder / str(self._lives), self._lives + 1
        shutil.copytree(old, self._folder / str(self._lives))
        self.close()
        shutil.rmtree(old)
        self._open(self._folder / str(self._lives))

    def replace_by_a_snapshot(self) -> None:
        """Copy the collection out, delete it, and go on with what is restored."""
        place = self._folder / "snapshot"
        snapshots = Snapshots(self._catalog, self._folder / str(self._lives), [str(place)])
        snapshots.create(NAME, str(place), Task())
        self._catalog.delete(NAME)
        snapshots.restore(str(place), NAME, "", Task())
        shutil.rmtree(place)

    def check(self) -> None:
        """Everything."""
        assert len(self.collection) == len(self.known)
        self.get(sorted(self.known))
        self.list(1_000)
        for digit in (None, 3):
            self.search(SearchOptions(IDS, exact=True), digit)

    def do_something(self) -> None:
        """One operation, drawn by the seed."""
        chosen = self.random
        ids = [self._id() for _ in range(chosen.randint(1, 25))]
        distinct = list(dict.fromkeys(ids))
        k, exact = chosen.choice((1, 2, 5, 10, 20, 50, 500, IDS)), chosen.random() < 0.3
        options = SearchOptions(k, chosen.choice((0, 0, 3)), chosen.choice((None, None, 0.2)), exact)
        weighted: list[tuple[float, Callable[[], None]]] = [
            (30, lambda: self.upsert(distinct)),
            (8, lambda: self.update(distinct)),
            (6, lambda: self.delete(distinct)),
            (0.2, lambda: self.delete_matching(chosen.randrange(DIGITS), self._id())),
            (25, lambda: self.search(options)),
            (10, lambda: self.search(options, chosen.randrange(DIGITS), negated=chosen.random() < 0.5)),
            (6, lambda: self.search_record(ids[0], k)),
            (6, lambda: self.get(ids)),
            (0.5, lambda: self.list(chosen.choice((7, 100, 1_000)))),
            (12, lambda: self.compact(chosen.randrange(SHARDS), idle=chosen.random() < 0.2)),
            (1, lambda: self.configure(chosen.choice(RECIPES), chosen.choice(EFFORTS))),
            (0.4, self.restart),
            (0.4, self.crash),
            (0.2, self.replace_by_a_snapshot),
        ]
        chosen.choices([work for _, work in weighted], [weight for weight, _ in weighted])[0]()

    def _open(self, folder: Path) -> None:
        workers = self._open_things.enter_context(closing(Workers(2)))
        self._catalog = self._open_things.enter_context(
            closing(Catalog(folder, workers, IndexMetrics(CollectorRegistry()), POLICY))
        )

    def _id(self) -> str:
        return f"{self.random.randrange(IDS):04d}"

    def _made(self, own: str, vector: np.ndarray) -> Known:
        digit = self.random.randrange(DIGITS)
        metadata = json.dumps({"id": own, "of": {"digit": digit, "write": self._writes}}).encode()
        return Known(Record(own, f"{own} by {self._writes}", f"/{own}.png", metadata), vector, digit)

    def _compare(
        self, found: object, query: np.ndarray, let_through: Sequence[str], options: SearchOptions, *, exact: bool
    ) -> None:
        """Hits are live, let through, distinct, in order, scored right and as many as there are; if exact, the best."""
        assert isinstance(found, QueryAnswer)
        assert len(set(found.ids)) == len(found.ids)
        assert set(found.ids) <= set(let_through)
        assert (np.diff(found.scores) <= 0).all()
        if found.ids:
            vectors = np.stack([self.known[own].vector for own in found.ids]).astype(np.float32)
            np.testing.assert_allclose(found.scores, self.space.scores(query, vectors), rtol=1e-5, atol=1e-6)
        if not let_through:
            assert not found.ids
            return
        stored = np.stack([self.known[own].vector for own in let_through]).astype(np.float32)
        best = -np.sort(-self.space.scores(query, stored))
        if options.min_score is not None:
            assert (found.scores >= np.float32(options.min_score)).all()
            best = best[best >= np.float32(options.min_score)]
        wanted = best[options.offset : options.offset + options.k]
        if exact:
            np.testing.assert_allclose(found.scores, wanted, rtol=1e-5, atol=1e-6)
        elif options.min_score is None:
            assert len(found.ids) == len(wanted)
