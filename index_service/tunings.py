"""The tunings of all collections: one at a time, in the background, begun again after a restart.

Owns what becomes of a request: whether there is anything to tune, what with, and that what was found is kept. Knows
nothing of how an index is measured.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import numpy as np

from index_service.catalog import Catalog, disk_error
from index_service.collection import Collection
from index_service.index_config import Basis, IndexConfig, Measured, Modality, Tuning
from index_service.recipes import EXACT, FASTSCAN, Build, Effort, code_bytes
from index_service.segment import Interrupted
from index_service.tuner import Tuner
from index_service.tuning_plan import LEAST_QUERIES, MOST_QUERIES, Tried, builds_to_try, choose, that_differ
from index_service.tuning_task import REQUEST_FILE, Phase, Stopped, TuningRequest, TuningTask
from index_service.workers import step_behind
from service_runtime.errors import FailedPrecondition, NotFound, ServiceError, Unavailable

WORKING_FOLDER = "tuning"
"""Name of the folder in a collection's that holds indexes while they are measured."""

_SETTLE_SECONDS = 120.0
_LOOK_SECONDS = 0.1
_MEASURED = (Modality.TEXT, Modality.IMAGE)

_logger = logging.getLogger("eyebright.tuning")


class Tunings:
    """Begins tunings, and knows those under way. Any thread may call it."""

    def __init__(self, catalog: Catalog, search_threads: int) -> None:
        """``search_threads`` is how many shards a search goes through side by side."""
        self._catalog = catalog
        self._search_threads = search_threads
        self._thread = ThreadPoolExecutor(1, "tuning", initializer=step_behind)
        self._changing = Lock()
        self._tasks: dict[Collection, TuningTask] = {}
        self._closing = False
        for collection in catalog.by_name():
            self._resume(collection)

    def close(self) -> None:
        """End the work under way; it is begun again when the service starts."""
        self._closing = True
        for task in list(self._tasks.values()):
            task.stop()
        self._thread.shutdown()

    def join(self, collection: Collection, request: TuningRequest) -> TuningTask:
        """Begin a tuning, durably, or join the one that was asked the same; whoever joins also leaves.

        Raises FailedPrecondition while another one is under way for the collection, or ResourceExhausted or Unavailable
        when the disk fails.
        """
        with self._changing:
            if self._closing:
                raise _stopping()
            running = self._tasks.get(collection)
            if running is not None and not running.stopped():
                if running.request.digest != request.digest:
                    goal = running.request.goal
                    raise FailedPrecondition(
                        f"collection {collection.spec.name!r} is being tuned for another request (target_recall "
                        f"{goal.target_recall:g}, k {goal.k}): wait for its end, or cancel it"
                    )
            else:
                try:
                    request.write(collection.folder)
                except OSError as error:
                    raise disk_error(f"the tuning of collection {collection.spec.name!r} can't begin", error) from error
                running = self._begin(collection, request)
            running.callers += 1
            return running

    def leave(self, task: TuningTask) -> None:
        """Stop waiting for a tuning. It ends with the last who leaves."""
        with self._changing:
            task.callers -= 1
            if not task.callers and not task.result.done():
                task.stop()

    def under_way(self, collection: Collection) -> TuningTask | None:
        """The tuning of a collection that is under way or waits."""
        return self._tasks.get(collection)

    def _resume(self, collection: Collection) -> None:
        """Clear what a crash left, and begin again what a restart cut short."""
        shutil.rmtree(collection.folder / WORKING_FOLDER, ignore_errors=True)
        try:
            request = TuningRequest.read(collection.folder)
        except ValueError as error:
            _logger.warning("tuning not begun again", extra={"reason": str(error)})
            (collection.folder / REQUEST_FILE).unlink(missing_ok=True)
            return
        if request is not None:
            _logger.info("tuning begun again", extra={"collection": collection.spec.name})
            self._begin(collection, request)

    def _begin(self, collection: Collection, request: TuningRequest) -> TuningTask:
        task = TuningTask(request)
        self._tasks[collection] = task
        self._thread.submit(self._run, collection, task)
        return task

    def _run(self, collection: Collection, task: TuningTask) -> None:
        """Carry a tuning out, and tell whoever waits."""
        try:
            result = _OneTuning(collection, task, self._search_threads).run(
                lambda: self._drop_request(collection, task)
            )
        except Exception as error:
            self._forget(collection, task)
            task.result.set_exception(self._told(collection, error))
        else:
            task.phase = Phase.DONE
            self._forget(collection, task)
            task.result.set_result(result)

    def _forget(self, collection: Collection, task: TuningTask) -> None:
        """Remove what a tuning needed; its request is kept where a restart is to begin it again."""
        shutil.rmtree(collection.folder / WORKING_FOLDER, ignore_errors=True)
        if not self._closing:
            self._drop_request(collection, task)
        with self._changing:
            if self._tasks.get(collection) is task:
                del self._tasks[collection]

    def _drop_request(self, collection: Collection, task: TuningTask) -> None:
        """Let no restart begin it again. Of a collection that is closed the folder may be another's by now."""
        with self._changing:
            if self._tasks.get(collection) is task and not collection.closed:
                (collection.folder / REQUEST_FILE).unlink(missing_ok=True)

    def _told(self, collection: Collection, error: Exception) -> Exception:
        """The answer to whoever waits for a tuning that failed."""
        name = collection.spec.name
        if self._closing:
            return _stopping()
        if collection.closed:
            return NotFound(f"collection {name!r} was deleted while it was tuned")
        if isinstance(error, Stopped | Interrupted):
            return Stopped()
        if isinstance(error, OSError):
            return disk_error(f"collection {name!r} can't be tuned", error)
        if not isinstance(error, ServiceError):
            _logger.error("tuning failed", exc_info=error, extra={"collection": name})
        return error


def _stopping() -> Unavailable:
    return Unavailable("the service stops; a tuning under way is begun again when it starts")


class _OneTuning:
    """One tuning, from the request to the rebuilt segments."""

    def __init__(self, collection: Collection, task: TuningTask, search_threads: int) -> None:
        self._collection = collection
        self._task = task
        self._search_threads = search_threads
        self._goal = task.request.goal

    def run(self, kept: Callable[[], None]) -> Tuning:
        """Find, keep, and rebuild. ``kept`` is called when the choice is on disk."""
        self._check()
        began = self._collection.config
        if began.build == EXACT:
            return self._found(Basis.EXACT, _unmeasured(EXACT), [])
        self._settle()
        tuning = self._tune(began)
        if tuning.basis is not Basis.EXACT:
            self._check()
            self._collection.configure(lambda config: config.tuned(tuning, since=began))
            kept()
            _logger.info("tuned", extra=_logged(self._collection.spec.name, tuning))
            self._rebuild()
        return tuning

    def _check(self) -> None:
        """Raise when the work is to end."""
        self._task.check()
        if self._collection.closed:
            raise Stopped

    def _stop(self) -> bool:
        return self._task.stopped() or self._collection.closed

    def _settle(self) -> None:
        """Wait until compaction is done with what was written before, but not for ever: others may go on writing."""
        self._task.enter(Phase.SETTLING)
        give_up = time.monotonic() + _SETTLE_SECONDS
        while time.monotonic() < give_up and not all(shard.settled for shard in self._collection.shards):
            self._task.wait(_LOOK_SECONDS)
            self._check()

    def _tune(self, began: IndexConfig) -> Tuning:
        shards = self._collection.shards
        views, policy = [shard.view for shard in shards], shards[0].policy
        space = self._collection.spec.space
        folder = self._collection.folder / WORKING_FOLDER
        tuner = Tuner(views, space, policy, self._search_threads, folder, self._stop, self._check)
        if began.build is not None:
            asked = [began.build]
        else:
            asked = builds_to_try(self._task.request.recipes, space.metric, tuner.sample_rows)
        builds = that_differ(asked, policy, [view.rows for shard in views for view in shard.segments])
        if asked and not builds:
            return self._found(Basis.EXACT, _unmeasured(EXACT), [])
        queries = self._chosen_queries()
        if not queries:
            return self._without_queries(began)
        folder.mkdir(exist_ok=True)
        task = self._task
        task.enter(Phase.ANSWERING)
        for task.steps_done, task.steps_total in tuner.answer(queries, self._goal.k):
            pass
        return self._measured(tuner, builds, began)

    def _measured(self, tuner: Tuner, builds: list[Build], began: IndexConfig) -> Tuning:
        """Measure these builds, and choose."""
        task = self._task
        task.enter(Phase.MEASURING, len(builds))
        exact = tuner.exact()
        # Slower than exact is worth nothing, unless the owner wants this recipe.
        most_seconds = math.inf if began.build is not None else exact.judged.latency_seconds or 0.0
        tried: list[Tried] = []
        for build in builds:
            task.build = build
            tried += tuner.measure(build, most_seconds)
            task.steps_done += 1
        eligible = tried if began.build is not None else [exact, *tried]
        found = choose(eligible, self._goal, began.build_in_force)
        if found is None:
            least = min((one.judged.index_bytes or 0 for one in tried), default=0)
            raise FailedPrecondition(
                f"the recipe that the owner chose needs about {least:,} bytes beside the vectors, "
                f"not at most {self._goal.memory_limit_bytes:,}",
                field="memory_limit_bytes",
            )
        front = [one.judged for one in (exact, *tried)]
        chosen, met = found
        return self._found(Basis.MEASURED, chosen, front, target_met=met)

    def _without_queries(self, began: IndexConfig) -> Tuning:
        """What is taken where too little is known to measure: codes of all vectors, which lose no caption between
        cells, with an effort that did well elsewhere.
        """
        build = began.build or FASTSCAN
        rows = sum(shard.view.rows for shard in self._collection.shards)
        index_bytes = rows * code_bytes(self._collection.spec.space.dimension) if build == FASTSCAN else None
        limit = self._goal.memory_limit_bytes
        exact = self._goal.target_recall >= 1.0 or (limit is not None and (index_bytes or 0) > limit)
        if exact and began.build is None:
            return self._found(Basis.FEW_QUERIES, _unmeasured(EXACT), [], target_met=True)
        return self._found(Basis.FEW_QUERIES, Measured(build, Effort(), {}, None, index_bytes), [], target_met=False)

    def _chosen_queries(self) -> dict[Modality, np.ndarray]:
        """The queries to measure with, of the modalities that have enough."""
        sent: Mapping[Modality, np.ndarray] | None = self._task.request.queries
        kept = sent if sent is not None else {one: self._collection.queries.sample(one) for one in _MEASURED}
        random = np.random.default_rng(0)
        return {
            modality: vectors[random.permutation(len(vectors))[:MOST_QUERIES]]
            for modality, vectors in kept.items()
            if len(vectors) >= LEAST_QUERIES
        }

    def _found(self, basis: Basis, chosen: Measured, front: list[Measured], *, target_met: bool = True) -> Tuning:
        by_seconds = sorted(front, key=lambda point: point.latency_seconds or 0.0)
        return Tuning(self._goal, basis, chosen, tuple(by_seconds), target_met, time.time_ns())

    def _rebuild(self) -> None:
        """Wait until compaction has built every segment as was chosen."""
        self._task.enter(Phase.REBUILDING)
        while True:
            built = [
                view.segment.build == shard.policy.for_rows(view.rows)
                for shard in self._collection.shards
                for view in shard.view.segments
            ]
            self._task.steps_done, self._task.steps_total = sum(built), len(built)
            if all(built):
                return
            self._task.wait(_LOOK_SECONDS)
            self._check()


def _unmeasured(build: Build) -> Measured:
    return Measured(build, Effort(), {}, None, 0 if build == EXACT else None)


def _logged(collection: str, tuning: Tuning) -> dict[str, object]:
    chosen = tuning.chosen
    return {
        "collection": collection,
        "basis": tuning.basis.value,
        "recipe": chosen.build.recipe.value,
        "centred": chosen.build.centred,
        "target_met": tuning.target_met,
        "recall": {name: round(recall.mean, 4) for name, recall in chosen.recall.items()},
        "latency_seconds": chosen.latency_seconds,
    }
