"""Who is let in: the token, its scope and its collections, and how many calls at a time.

Owns the decision: before the first byte of a message is read what the token says, and for each message what it is
about. Logs what administrators do.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service_runtime.access import ANYONE, Access, Grant, Scope, set_current_grant
from service_runtime.errors import PermissionDenied, ResourceExhausted
from service_runtime.tokens import Tokens

_HEALTH = "/grpc.health.v1.Health/"
MOST_HEALTH_CALLS = 128
"""Health checks need no token, so that a probe has none to keep; they have a limit of their own, so that they neither
fill the server nor fail when it is full."""

HEALTH_REQUEST_SECONDS = 5.0
"""How long the request of a health check may take to arrive, at most: it has a few bytes, and a stranger who sends
megabytes instead has them held for as long."""

RUNTIME_ACCESS: Mapping[str, Access] = {
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Access(Scope.READ),
}
"""What the methods need that every service has."""

_audit = logging.getLogger("eyebright.audit")


@dataclass(slots=True)
class Visit:
    """One call that wants in."""

    path: str
    authorization: str | None
    access: Access | None
    grant: Grant
    healthy: bool
    """Whether it is a health check."""
    inside: bool = False


class Gate:
    """Lets calls in. Belongs to one event loop."""

    def __init__(self, access: Mapping[str, Access], tokens: Tokens | None, most_calls: int) -> None:
        """``access`` by the full path of a method; with tokens, a method that is not in it is refused."""
        self._access = {**RUNTIME_ACCESS, **access}
        self._tokens = tokens
        self._most = {False: most_calls, True: MOST_HEALTH_CALLS}
        self._inside = {False: 0, True: 0}

    def visit(self, path: str, metadata: Mapping[str, str]) -> Visit:
        """A call that has come so far as the gate."""
        healthy = path.startswith(_HEALTH)
        return Visit(path, metadata.get("authorization"), self._access.get(path), ANYONE, healthy)

    def enter(self, visit: Visit) -> None:
        """Let a call in. Raises Unauthenticated, PermissionDenied or ResourceExhausted."""
        self._identify(visit)
        healthy = visit.healthy
        if self._inside[healthy] >= self._most[healthy]:
            raise ResourceExhausted(
                f"this server answers at most {self._most[healthy]:,} calls at a time; try again in a moment"
            )
        self._inside[healthy] += 1
        visit.inside = True

    def renew(self, visit: Visit) -> None:
        """Let a call go on that may have been let in long ago; raises as ``enter`` when its token holds no more."""
        self._identify(visit)

    def leave(self, visit: Visit) -> None:
        """The call has ended, whether or not it was let in."""
        if visit.inside:
            self._inside[visit.healthy] -= 1
            visit.inside = False

    def check(self, visit: Visit, request: Any, caller: Callable[[], Mapping[str, str]]) -> None:  # noqa: ANN401
        """Let a message of a call in. Raises PermissionDenied.

        ``caller`` tells what the log should say of an administrator's call beside what is known here.
        """
        access = visit.access
        if access is None:
            return
        collection = None if access.collection is None else access.collection(request)
        refusal = _refusal(visit, access, collection)
        if access.scope is Scope.ADMIN or access.administrative(request):
            _log(visit, collection, refusal, caller())
        if refusal:
            raise PermissionDenied(refusal)

    def _identify(self, visit: Visit) -> None:
        if self._tokens is None or visit.healthy:
            return
        visit.grant = grant = self._tokens.grant(visit.authorization)
        set_current_grant(grant)
        if visit.access is None:
            raise PermissionDenied("no token allows this method")
        if grant.scope < visit.access.scope:
            needed, own = visit.access.scope.name.lower(), grant.scope.name.lower()
            raise PermissionDenied(f"expected a token of scope {needed}, not {grant.name!r} of scope {own}")


def _refusal(visit: Visit, access: Access, collection: str | None) -> str:
    """Why a grant does not reach; the same whether or not there is such a collection. Empty when it does."""
    grant = visit.grant
    if access.every_collection and not grant.reaches_all:
        return f"expected a token for every collection, not {grant.name!r}"
    if collection is not None and not grant.reaches(collection):
        return f"the token {grant.name!r} does not reach a collection {collection[:100]!r}"
    return ""


def _log(visit: Visit, collection: str | None, refusal: str, caller: Mapping[str, str]) -> None:
    extra = {"method": visit.path.rpartition("/")[2], "token": visit.grant.name, "allowed": not refusal, **caller}
    if collection is not None:
        extra["collection"] = collection[:100]
    _audit.info("administrator's call", extra=extra)
