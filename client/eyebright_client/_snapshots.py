"""Snapshots: the operations that make them, and that make collections of them.

Performs no I/O.
"""

from collections.abc import Callable

from eyebright_client import _messages
from eyebright_client._calls import Finish, Message, OpenServerStream, Operation, Receive, Service
from eyebright_client._results import Collection, Snapshot, SnapshotProgress
from eyebright_client._session import Session

OnProgress = Callable[[SnapshotProgress], object]


def create_snapshot(
    session: Session, url: str, *, collection: str | None, progress: OnProgress | None
) -> Operation[Snapshot]:
    """Behind ``create_snapshot``."""
    request = _messages.create_snapshot_request(session.collection_name(collection), url)
    last = yield from _follow(session, "CreateSnapshot", request, progress)
    return _messages.read_snapshot(last.snapshot)


def restore_snapshot(
    session: Session,
    url: str,
    *,
    collection: str | None,
    expected_fingerprint: str | None,
    progress: OnProgress | None,
) -> Operation[Collection]:
    """Behind ``restore_snapshot``."""
    request = _messages.restore_snapshot_request(url, collection, expected_fingerprint)
    last = yield from _follow(session, "RestoreSnapshot", request, progress)
    return session.remember(_messages.read_collection(last.collection))


def _follow(session: Session, method: str, request: Message, progress: OnProgress | None) -> Operation[Message]:
    """The last message of a call that tells its progress."""
    stream = yield OpenServerStream(Service.INDEX, method, request, session.request_id)
    while True:
        response = yield Receive(stream, session.timeouts.read)
        if progress is not None:
            progress(_messages.read_snapshot_progress(response.progress))
        if response.HasField("snapshot"):
            yield Finish(stream)
            return response
