"""Protobuf <-> domain for tunings: what a request asks, checked, and how answers tell what was found.

Owns the limits that optimize.proto states of a request's form.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from eyebright.index.v1 import collection_pb2, optimize_pb2, search_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from index_service.collection import Collection
from index_service.collection_converters import MODALITY_NUMBERS, RECIPE_NUMBERS, RECIPES, effort_message
from index_service.converters import check_range, parse_vectors
from index_service.index_config import Basis, Goal, Measured, Modality, Recall, Tuning
from index_service.recipes import Recipe
from index_service.tuning_plan import LEAST_QUERIES
from index_service.tuning_task import Phase, TuningRequest, TuningTask
from index_service.vector_space import Metric, VectorSpace
from service_runtime.errors import FailedPrecondition, InvalidArgument

MAX_QUERIES_OF_SET = 10_000
MAX_K = 1_000
DEFAULT_GOAL = Goal()

_PHASES = {
    Phase.WAITING: optimize_pb2.OPTIMIZE_PHASE_WAITING,
    Phase.SETTLING: optimize_pb2.OPTIMIZE_PHASE_SETTLING,
    Phase.ANSWERING: optimize_pb2.OPTIMIZE_PHASE_ANSWERING,
    Phase.MEASURING: optimize_pb2.OPTIMIZE_PHASE_MEASURING,
    Phase.REBUILDING: optimize_pb2.OPTIMIZE_PHASE_REBUILDING,
    Phase.DONE: optimize_pb2.OPTIMIZE_PHASE_DONE,
}
_BASES = {
    Basis.MEASURED: optimize_pb2.OPTIMIZE_BASIS_MEASURED,
    Basis.FEW_QUERIES: optimize_pb2.OPTIMIZE_BASIS_FEW_QUERIES,
    Basis.EXACT: optimize_pb2.OPTIMIZE_BASIS_EXACT,
}
_MODALITIES = {search_pb2.MODALITY_TEXT: Modality.TEXT, search_pb2.MODALITY_IMAGE: Modality.IMAGE}


def parse_request(request: optimize_pb2.OptimizeRequest, collection: Collection) -> TuningRequest:
    """What is asked for a collection. Raises InvalidArgument or FailedPrecondition."""
    target = request.target_recall
    if math.isnan(target) or not 0.0 <= target <= 1.0:
        raise InvalidArgument(f"expected above 0 and at most 1, not {target:g}", field="target_recall")
    check_range("k", request.k, 0, MAX_K)
    limit = request.memory_limit_bytes if request.HasField("memory_limit_bytes") else None
    goal = Goal(target or DEFAULT_GOAL.target_recall, request.k or DEFAULT_GOAL.k, limit)
    recipes = _parse_recipes(request.recipes, collection)
    return TuningRequest(goal, recipes, _parse_queries(request.queries, collection.spec.space))


def _parse_recipes(numbers: Sequence[collection_pb2.Recipe], collection: Collection) -> tuple[Recipe, ...]:
    recipes: list[Recipe] = []
    for row, number in enumerate(numbers):
        recipe = RECIPES.get(number)
        if recipe is None:
            raise InvalidArgument(f"expected a recipe from EXACT (2) to LSH (7), not {number}", field=f"recipes[{row}]")
        if recipe is Recipe.LSH and collection.spec.space.metric is Metric.INNER_PRODUCT:
            raise InvalidArgument("expected metric COSINE or L2 for LSH, not INNER_PRODUCT", field=f"recipes[{row}]")
        recipes.append(recipe)
    own = collection.config.build
    if own is not None and set(recipes) - {own.recipe, Recipe.EXACT}:
        raise FailedPrecondition(
            f"expected {own.recipe.name}, which the owner of collection {collection.spec.name!r} chose, not "
            f"{', '.join(recipe.name for recipe in recipes)}; choose AUTO to have others measured",
            field="recipes",
        )
    return tuple(sorted(set(recipes), key=list(Recipe).index))


def _parse_queries(sets: Sequence[optimize_pb2.QuerySet], space: VectorSpace) -> dict[Modality, np.ndarray] | None:
    """The vectors of each modality, prepared; None when no set was sent."""
    if not sets:
        return None
    parts: defaultdict[Modality, list[np.ndarray]] = defaultdict(list)
    for row, one in enumerate(sets):
        modality = _MODALITIES.get(one.modality)
        if modality is None:
            raise InvalidArgument(
                f"expected TEXT (1) or IMAGE (2), not {one.modality}", field=f"queries[{row}].modality"
            )
        vectors = parse_vectors(one.vectors, space, 1, MAX_QUERIES_OF_SET, f"queries[{row}].vectors")
        prepared, faults = space.prepare(vectors)
        for number, message in faults.items():
            raise InvalidArgument(message, field=f"queries[{row}].vectors[{number}]")
        parts[modality].append(prepared)
    queries = {modality: np.concatenate(own) for modality, own in parts.items()}
    for modality, vectors in queries.items():
        if len(vectors) < LEAST_QUERIES:
            raise InvalidArgument(
                f"expected at least {LEAST_QUERIES} queries of {modality.value}, not {len(vectors)}", field="queries"
            )
    return queries


def progress_message(task: TuningTask) -> optimize_pb2.OptimizeProgress:
    """How far a tuning is."""
    build = task.build
    return optimize_pb2.OptimizeProgress(
        phase=_PHASES[task.phase],
        steps_done=task.steps_done,
        steps_total=task.steps_total,
        recipe=None if build is None else RECIPE_NUMBERS[build.recipe],
        centred=build is not None and build.centred,
    )


def result_message(tuning: Tuning) -> optimize_pb2.OptimizeResult:
    """What a tuning found."""
    found = Timestamp()
    found.FromNanoseconds(tuning.time_ns)
    return optimize_pb2.OptimizeResult(
        basis=_BASES[tuning.basis],
        chosen=_point_message(tuning.chosen),
        front=[_point_message(point) for point in tuning.front],
        target_met=tuning.target_met,
        target_recall=tuning.goal.target_recall,
        k=tuning.goal.k,
        memory_limit_bytes=tuning.goal.memory_limit_bytes,
        time=found,
    )


def _point_message(point: Measured) -> optimize_pb2.MeasuredPoint:
    return optimize_pb2.MeasuredPoint(
        recipe=RECIPE_NUMBERS[point.build.recipe],
        centred=point.build.centred,
        effort=effort_message(point.effort),
        recall=[_recall_message(Modality(name), recall) for name, recall in point.recall.items()],
        latency_seconds=point.latency_seconds,
        index_bytes=point.index_bytes,
    )


def _recall_message(modality: Modality, recall: Recall) -> optimize_pb2.ModalityRecall:
    return optimize_pb2.ModalityRecall(
        modality=MODALITY_NUMBERS[modality],
        mean=recall.mean,
        lower=recall.lower,
        upper=recall.upper,
        query_count=recall.query_count,
    )
