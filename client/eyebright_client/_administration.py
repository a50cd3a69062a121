"""Collections: the operations that make, describe and delete them; the health of both services, and the wait for them.

Performs no I/O.
"""

from eyebright_client import _messages
from eyebright_client._calls import Call, Message, Operation, Service, Sleep
from eyebright_client._exceptions import AlreadyExists, FingerprintMismatch, InvalidArgument, Unavailable
from eyebright_client._results import Collection, CollectionStats, Metric, Recipe, ServiceName, ServingStatus
from eyebright_client._session import Session
from eyebright_client._timeouts import Deadline

_READY_POLL_SECONDS = 0.1
_SERVICES: dict[ServiceName, Service] = {"embedder": Service.EMBEDDER, "index": Service.INDEX}


def wait_until_ready(session: Session, timeout_seconds: float) -> Operation[None]:
    """Behind ``wait_until_ready``: a real call to each service, which waits for the connection."""
    deadline = Deadline(timeout_seconds)
    calls: list[tuple[Service, str, Message]] = [
        (Service.INDEX, "ListCollections", _messages.list_collections_request())
    ]
    if session.state.has_embedder:
        calls.insert(0, (Service.EMBEDDER, "GetModel", _messages.get_model_request()))
    for service, method, request in calls:
        answered = False
        while not answered:
            seconds = deadline.remaining()
            try:
                yield Call(service, method, request, seconds, session.request_id, wait_for_ready=True)
                answered = True
            except Unavailable:  # the connection broke while the service was starting
                yield Sleep(min(_READY_POLL_SECONDS, deadline.remaining()))


def health(session: Session, service: ServiceName) -> Operation[ServingStatus]:
    """Behind ``health``."""
    if service not in _SERVICES:
        expected = " or ".join(map(repr, _SERVICES))
        raise InvalidArgument(f"service: expected {expected}, not {service!r}", field="service")
    asked = _SERVICES[service]
    call = session.embedder if asked is Service.EMBEDDER else session.index
    request = _messages.health_request(asked)
    answer = yield from call("CheckHealth", request, session.timeouts.read, through_outages=False)
    return _messages.read_health(answer)


def create_collection(
    session: Session,
    name: str | None,
    *,
    shard_count: int | None,
    metric: Metric,
    dimension: int | None,
    fingerprint: str | None,
    exist_ok: bool,
) -> Operation[Collection]:
    """Behind ``create_collection``."""
    name = session.collection_name(name)
    if dimension is None or fingerprint is None:
        session.require_embedder("create_collection without dimension and fingerprint")
        model = yield from session.model()
        dimension = model.dimension if dimension is None else dimension
        fingerprint = model.fingerprint if fingerprint is None else fingerprint
    request = _messages.create_collection_request(name, dimension, fingerprint, metric, shard_count)
    try:
        response = yield from session.index("CreateCollection", request, session.timeouts.write)
    except AlreadyExists as error:
        if not exist_ok:
            raise
        session.forget(name)
        existing = yield from session.collection(name)
        _check_same(existing, metric, dimension, fingerprint, shard_count, error)
        return existing
    return session.remember(_messages.read_collection(response.collection))


def _check_same(
    existing: Collection,
    metric: Metric,
    dimension: int,
    fingerprint: str,
    shard_count: int | None,
    error: AlreadyExists,
) -> None:
    """Raise unless the collection that exists is the one that was asked for."""
    check_fingerprint(existing, fingerprint, request_id=error.request_id)
    wanted = {"metric": metric, "dimension": dimension}
    if shard_count:
        wanted["shard_count"] = shard_count
    for field, value in wanted.items():
        found = getattr(existing, field)
        if found != value:
            raise AlreadyExists(
                f"collection {existing.name!r} exists with {field} {found!r}, not {value!r}",
                field=field,
                request_id=error.request_id,
            ) from error


def check_fingerprint(collection: Collection, fingerprint: str, *, request_id: str | None) -> None:
    """Raise FingerprintMismatch, naming both, unless the collection lies in this vector space."""
    if collection.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"collection {collection.name!r} has fingerprint {collection.fingerprint}, the vectors have {fingerprint}",
            field="fingerprint",
            request_id=request_id,
        )


def get_collection(session: Session, name: str | None) -> Operation[Collection]:
    """Behind ``get_collection``."""
    name = session.collection_name(name)
    session.forget(name)
    return (yield from session.collection(name))


def list_collections(session: Session) -> Operation[tuple[Collection, ...]]:
    """Behind ``list_collections``."""
    request = _messages.list_collections_request()
    response = yield from session.index("ListCollections", request, session.timeouts.read)
    return tuple(_messages.read_collection(collection) for collection in response.collections)


def set_index(session: Session, name: str | None, *, recipe: Recipe, centred: bool) -> Operation[Collection]:
    """Behind ``set_index``."""
    request = _messages.set_index_request(session.collection_name(name), recipe, centred)
    response = yield from session.index("UpdateCollection", request, session.timeouts.write)
    return session.remember(_messages.read_collection(response.collection))


def delete_collection(session: Session, name: str | None) -> Operation[None]:
    """Behind ``delete_collection``."""
    name = session.collection_name(name)
    session.forget(name)
    request = _messages.delete_collection_request(name)
    yield from session.index("DeleteCollection", request, session.timeouts.write)


def stats(session: Session, collection: str | None) -> Operation[CollectionStats]:
    """Behind ``stats``."""
    request = _messages.get_stats_request(session.collection_name(collection))
    return _messages.read_stats((yield from session.index("GetStats", request, session.timeouts.read)))


def count(session: Session, collection: str | None) -> Operation[int]:
    """Behind ``count``."""
    return (yield from stats(session, collection)).record_count
