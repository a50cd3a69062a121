"""The errors a service may answer with, and their way onto the wire.

Owns the ServiceError family and its translation into a gRPC status. A domain error is raised once, where it is noticed,
as one of these; nothing else decides on status codes.

    ServiceError
    ├── InvalidArgument      a field is wrong whatever the state of the service
    ├── NotFound             what was named does not exist
    ├── AlreadyExists        what should be made is there
    ├── FailedPrecondition   right in form, refused in this state (another fingerprint, a read-only shard)
    ├── ResourceExhausted    a limit of this server; try later or ask for less
    ├── Unavailable          not now; safe to repeat
    ├── DeadlineExceeded     the caller has stopped waiting
    ├── Unauthenticated      no token, or a wrong one
    └── PermissionDenied     the token is good, but not for this
"""

from typing import ClassVar

import grpc
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"

_MAX_MESSAGE_BYTES = 1000
"""Longest message of an error: what a caller sent may be quoted in it, and answers and logs stay small. Escaped,
and said again in the details, it still fits the 8 KiB of metadata that a client takes."""


class ServiceError(Exception):
    """An answer other than OK. ``field`` names the field of the request at fault, as a path, where there is one;
    ``retry_after_seconds`` says when the same request is worth another try, where that is known.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, *, field: str = "", retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.message = _shortened(f"{field}: {message}" if field else message)
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    def to_status(self) -> status_pb2.Status:
        """The google.rpc.Status of one item, or of a whole call; carries a BadRequest when a field is at fault, a
        RetryInfo when it is known when to come again.
        """
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(field=self.field, description=self.message)
            status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after_seconds * 1e9))
            status.details.add().Pack(retry)
        return status

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The metadata that carries the status with its details to clients that read them."""
        has_details = self.field or self.retry_after_seconds is not None
        return ((_DETAILS_KEY, self.to_status().SerializeToString()),) if has_details else ()


class InvalidArgument(ServiceError):
    """A field of the request is wrong, whatever the state of the service."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """What the request would make exists."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The request is well formed, but refused in the present state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhausted(ServiceError):
    """A limit of this server is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServiceError):
    """The service can't answer now; repeating the request later is safe."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The caller's deadline passed before the work was done."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(ServiceError):
    """The call carries no token, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(ServiceError):
    """The caller is known, and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


OK_STATUS = status_pb2.Status()
"""The status of an item without fault."""


def _shortened(message: str) -> str:
    raw = message.encode("utf-8", "replace")
    if len(raw) <= _MAX_MESSAGE_BYTES:
        return message
    return raw[: _MAX_MESSAGE_BYTES - 3].decode("utf-8", "ignore") + "…"
