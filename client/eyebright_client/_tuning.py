"""Tuning: the operations that find an index, and that tell what was found.

Performs no I/O.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from eyebright_client import _messages
from eyebright_client._administration import check_fingerprint
from eyebright_client._calls import Finish, Message, OpenServerStream, Operation, Receive, Service, Sleep
from eyebright_client._exceptions import InvalidArgument, Unavailable
from eyebright_client._results import Embeddings, Modality, Recipe, Tuning, TuningProgress, TuningStatus
from eyebright_client._session import Session
from eyebright_client._vectors import matrix_of

_Vectors: TypeAlias = np.ndarray | Sequence[Sequence[float]] | Embeddings
TuningQueries: TypeAlias = _Vectors | Mapping[Modality, _Vectors]
"""Vectors to measure with; those of captions unless they say otherwise."""

OnProgress = Callable[[TuningProgress], object]

_RETRY_SECONDS = 0.5


def optimize(
    session: Session,
    *,
    target_recall: float,
    k: int,
    memory_limit_bytes: int | None,
    queries: TuningQueries | None,
    recipes: Sequence[Recipe],
    collection: str | None,
    progress: OnProgress | None,
) -> Operation[Tuning]:
    """Behind ``optimize``."""
    name = session.collection_name(collection)
    sets = yield from _query_sets(session, name, queries)
    request = _messages.optimize_request(name, target_recall, k, memory_limit_bytes, sets, recipes)
    heard: list[float] = []
    while True:
        try:
            last = yield from _follow(session, request, progress, heard)
            return _messages.read_tuning(last.result)
        except Unavailable:
            # A server that restarts begins again by itself, and the same request joins it.
            if not heard or time.monotonic() - heard[-1] > session.timeouts.outage:
                raise
            yield Sleep(_RETRY_SECONDS)


def tuning(session: Session, collection: str | None) -> Operation[TuningStatus]:
    """Behind ``tuning``."""
    request = _messages.get_tuning_request(session.collection_name(collection))
    return _messages.read_tuning_status((yield from session.index("GetTuning", request, session.timeouts.read)))


def _query_sets(session: Session, name: str, queries: TuningQueries | None) -> Operation[list[_messages.QuerySet]]:
    """What to measure with: vectors, their fingerprint and what they were made of."""
    if queries is None:
        return []
    by_modality = queries if isinstance(queries, Mapping) else {None: queries}
    known = yield from session.collection(name)
    sets: list[_messages.QuerySet] = []
    for said, vectors in by_modality.items():
        matrix, fingerprint, made_of, errors = matrix_of(vectors)
        for error in errors.values():
            raise error
        modality: Modality = said or made_of or "text"
        if modality not in ("text", "image"):
            raise InvalidArgument(f'queries: expected "text" or "image", not {modality!r}', field="queries")
        if fingerprint is not None:
            check_fingerprint(known, fingerprint, request_id=None)
        sets.append((matrix, fingerprint or known.fingerprint, modality))
    return sets


def _follow(session: Session, request: Message, progress: OnProgress | None, heard: list[float]) -> Operation[Message]:
    """The last message of Optimize; ``heard`` is told when there was any."""
    stream = yield OpenServerStream(Service.INDEX, "Optimize", request, session.request_id)
    while True:
        response = yield Receive(stream, session.timeouts.read)
        heard.append(time.monotonic())
        if progress is not None:
            progress(_messages.read_tuning_progress(response.progress))
        if response.HasField("result"):
            yield Finish(stream)
            return response
