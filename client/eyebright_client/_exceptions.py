"""What can go wrong, and which gRPC status becomes which exception.

Owns the exception classes and the one table that translates status codes. Knows no message and makes no call.

    EyebrightError
    ├── ClientClosed               the client was closed before the call
    ├── EmbedderNotConfigured      a caption or an image was given to a client made with embedder=None
    └── CallError                  a service, or a check before the call, refused; has code, field, request_id, position
        ├── InvalidArgument        a value is wrong whatever the state of the services
        │   └── ImageUnreadable    a file can't be read, or an image object can't be encoded
        ├── NotFound               no such collection or record
        ├── AlreadyExists          a collection of this name exists
        ├── FailedPrecondition     right in form, refused in this state
        │   └── FingerprintMismatch    the vectors come from another model than the collection's
        ├── ResourceExhausted      a limit of the server; retry_after_seconds says when to come back, if it knows
        ├── Unauthenticated        no token, or a wrong one
        ├── PermissionDenied       the token may not do this
        ├── DeadlineExceeded       no answer in time
        ├── Unavailable            the service can't be reached, or is stopping
        ├── Aborted                the server gave up midway
        ├── Cancelled              the call was cancelled
        ├── Unimplemented          the server is older than this client
        └── InternalError          a fault of the server; its log has the request_id
"""

from typing import ClassVar

import grpc


class EyebrightError(Exception):
    """Any error of this package."""


class ClientClosed(EyebrightError):
    """The client was closed before the call."""


class EmbedderNotConfigured(EyebrightError):
    """A caption or an image needs an embedder service, and the client was made with ``embedder=None``."""

    def __init__(self, what: str = "this call") -> None:
        super().__init__(what)

    def __str__(self) -> str:
        return (
            f"{self.args[0]} needs an embedder service, but this client was made with embedder=None; "
            "make it with Client(embedder='host:port', ...) or use vectors"
        )


class CallError(EyebrightError):
    """A call, or one item of it, was refused or failed.

    ``code`` is the gRPC status; ``message`` says what is wrong, with both values; ``field`` is the field of the
    request at fault, or empty; ``request_id`` finds the call in the logs of the services, None when it was refused
    before it was sent; ``position`` counts the item from 0, None when the whole call failed; ``retry_after_seconds``
    is when an overloaded server asks to be tried again.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    hint: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        field: str = "",
        request_id: str | None = None,
        position: int | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        self.field = field
        self.request_id = request_id
        self.position = position
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        item = "" if self.position is None else f"item {self.position}: "
        request = "" if self.request_id is None else f", request {self.request_id}"
        hint = f". {self.hint}" if self.hint else ""
        return f"{item}{self.message}{hint} ({self.code.name}{request})"


class InvalidArgument(CallError):
    """A value is wrong, whatever the state of the services."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class ImageUnreadable(InvalidArgument):
    """A file can't be read, or an image object can't be encoded; ``__cause__`` is the original error."""


class NotFound(CallError):
    """There is no such collection or record."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(CallError):
    """A collection of this name exists."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(CallError):
    """The request is right in form, but refused in the present state."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class FingerprintMismatch(FailedPrecondition):
    """Vectors of one model met a collection of another; their distances would mean nothing."""

    hint = (
        "Vectors of different models can't be compared: connect to the embedder that filled this collection, "
        "or index the images again into a new collection"
    )


class ResourceExhausted(CallError):
    """A limit of the server is reached."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unauthenticated(CallError):
    """The call carries no token, or a wrong one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(CallError):
    """The token may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class DeadlineExceeded(CallError):
    """No answer came in time."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(CallError):
    """The service can't be reached, or is stopping; trying again later is safe."""

    code = grpc.StatusCode.UNAVAILABLE


class Aborted(CallError):
    """The server gave up midway, because of another call."""

    code = grpc.StatusCode.ABORTED


class Cancelled(CallError):
    """The call was cancelled, by the server or because the client was closed."""

    code = grpc.StatusCode.CANCELLED


class Unimplemented(CallError):
    """The server does not know this method: it is older than this client, or another service listens there."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(CallError):
    """A fault of the server; its log has the traceback under the request_id."""

    code = grpc.StatusCode.INTERNAL


TRANSLATIONS: tuple[tuple[grpc.StatusCode, str, type[CallError]], ...] = (
    (grpc.StatusCode.FAILED_PRECONDITION, "fingerprint", FingerprintMismatch),
    (grpc.StatusCode.FAILED_PRECONDITION, "", FailedPrecondition),
    (grpc.StatusCode.INVALID_ARGUMENT, "", InvalidArgument),
    (grpc.StatusCode.OUT_OF_RANGE, "", InvalidArgument),
    (grpc.StatusCode.NOT_FOUND, "", NotFound),
    (grpc.StatusCode.ALREADY_EXISTS, "", AlreadyExists),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "", ResourceExhausted),
    (grpc.StatusCode.UNAUTHENTICATED, "", Unauthenticated),
    (grpc.StatusCode.PERMISSION_DENIED, "", PermissionDenied),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceeded),
    (grpc.StatusCode.UNAVAILABLE, "", Unavailable),
    (grpc.StatusCode.ABORTED, "", Aborted),
    (grpc.StatusCode.CANCELLED, "", Cancelled),
    (grpc.StatusCode.UNIMPLEMENTED, "", Unimplemented),
    (grpc.StatusCode.INTERNAL, "", InternalError),
    (grpc.StatusCode.DATA_LOSS, "", InternalError),
    (grpc.StatusCode.UNKNOWN, "", InternalError),
)
"""(status code, word that the field or message must hold, exception), the most specific first."""


def call_error(
    code: grpc.StatusCode,
    message: str,
    *,
    field: str = "",
    request_id: str | None = None,
    position: int | None = None,
    retry_after_seconds: float | None = None,
) -> CallError:
    """The exception for a status: the first row of the table that fits."""
    kind = next(
        (kind for known, word, kind in TRANSLATIONS if known is code and (word in field or word in message)),
        InternalError,
    )
    return kind(
        message,
        code=code,
        field=field,
        request_id=request_id,
        position=position,
        retry_after_seconds=retry_after_seconds,
    )
