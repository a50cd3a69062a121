"""What the operations of one client share, and one operation's view of it.

Owns the caches of the model and of collections, request ids, and the steps that several operations need. Performs no
I/O.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eyebright_client import _messages
from eyebright_client._calls import Call, Message, Operation, Service, Sleep
from eyebright_client._exceptions import EmbedderNotConfigured, ResourceExhausted
from eyebright_client._results import Collection, Model
from eyebright_client._timeouts import Timeouts

if TYPE_CHECKING:
    from eyebright_client._tracing import TracerProvider, Tracing

_LEAST_PAUSE_SECONDS = 0.02

COLLECTION_SECONDS = 60.0
"""How long a collection's metric and fingerprint are believed: it may be deleted and made anew by others."""


@dataclass(slots=True)
class ClientState:
    """What a client keeps between calls. Every change is one assignment, so that threads may share it."""

    has_embedder: bool
    default_collection: str
    timeouts: Timeouts
    model: Model | None = None
    collections: dict[str, tuple[Collection, float]] = field(default_factory=dict)
    answered: frozenset[Service] = frozenset()
    """Services that have answered before, so that their addresses are right."""


def tracing_by(provider: "TracerProvider | None") -> "Tracing | None":
    """What puts operations into traces; without a provider OpenTelemetry is not even imported."""
    if provider is None:
        return None
    from eyebright_client._tracing import Tracing

    return Tracing(provider)


class Session:
    """One operation of a client: all its calls, to both services, carry the same request id."""

    def __init__(self, state: ClientState) -> None:
        self.state = state
        self.timeouts = state.timeouts
        self.request_id = uuid.uuid4().hex

    def collection_name(self, name: str | None) -> str:
        """The name given, else the client's own."""
        return self.state.default_collection if name is None else name

    def require_embedder(self, what: str) -> None:
        """Raise EmbedderNotConfigured when the client was made without one."""
        if not self.state.has_embedder:
            raise EmbedderNotConfigured(what)

    def embedder(
        self, method: str, request: Message, timeout_seconds: float, *, through_outages: bool = True
    ) -> Operation[Message]:
        """Call the embedder."""
        self.require_embedder(method)
        return (yield from self._call(Service.EMBEDDER, method, request, timeout_seconds, through_outages))

    def index(
        self, method: str, request: Message, timeout_seconds: float, *, through_outages: bool = True
    ) -> Operation[Message]:
        """Call the index."""
        return (yield from self._call(Service.INDEX, method, request, timeout_seconds, through_outages))

    def _call(
        self, service: Service, method: str, request: Message, timeout_seconds: float, through_outages: bool
    ) -> Operation[Message]:
        """The answer, as long as the timeout allows.

        A service that has answered before and can't be reached is being started again, most likely: the call waits for
        it, unsent. One that never answered fails at once, for its address may be wrong; so does any call that is not to
        go ``through_outages``. A service that refused for want of room and said when to come again did nothing: it is
        asked again then, or up to half as much later so that clients don't come in step, and each time after twice as
        long, so that clients don't become the load.
        """
        ends = time.monotonic() + timeout_seconds
        refusals = 0
        while True:
            waits = through_outages and service in self.state.answered
            try:
                answer = yield Call(service, method, request, timeout_seconds, self.request_id, wait_for_ready=waits)
            except ResourceExhausted as error:
                if error.retry_after_seconds is None:
                    raise
                longer = random.uniform(1.0, 1.5) * 2**refusals  # noqa: S311
                pause = max(error.retry_after_seconds, _LEAST_PAUSE_SECONDS) * longer
                timeout_seconds = ends - time.monotonic() - pause
                if timeout_seconds <= 0:
                    raise
                refusals += 1
            else:
                self.state.answered |= {service}
                return answer
            yield Sleep(pause)

    def model(self, wait: Callable[[], float] | None = None) -> Operation[Model]:
        """The embedder's model, asked for once. ``wait`` gives the timeout of the call in seconds."""
        if self.state.model is None:
            seconds = wait() if wait else self.timeouts.read
            response = yield from self.embedder("GetModel", _messages.get_model_request(), seconds)
            self.state.model = _messages.read_model(response)
        return self.state.model

    def notice_fingerprint(self, fingerprint: str) -> None:
        """Forget the model when the embedder answers with another fingerprint: it was restarted with another
        checkpoint.
        """
        model = self.state.model
        if model is not None and fingerprint and model.fingerprint != fingerprint:
            self.state.model = None

    def collection(self, name: str, wait: Callable[[], float] | None = None) -> Operation[Collection]:
        """A collection, believed for COLLECTION_SECONDS."""
        known = self.state.collections.get(name)
        if known is not None and time.monotonic() - known[1] < COLLECTION_SECONDS:
            return known[0]
        seconds = wait() if wait else self.timeouts.read
        response = yield from self.index("GetCollection", _messages.get_collection_request(name), seconds)
        return self.remember(_messages.read_collection(response.collection))

    def remember(self, collection: Collection) -> Collection:
        """Keep a collection that was just seen."""
        self.state.collections[collection.name] = (collection, time.monotonic())
        return collection

    def forget(self, name: str) -> None:
        """Drop what is believed of a collection."""
        self.state.collections.pop(name, None)
