"""Exceptions from statuses: of a failed call, and of single items in an answer.

Owns reading google.rpc.Status and its details. Knows no request; which exception a code becomes stands in
``_exceptions``.
"""

import re
from collections.abc import Iterable, Sequence
from typing import cast

import grpc
from google.rpc import error_details_pb2, status_pb2

from eyebright_client._calls import Message
from eyebright_client._exceptions import CallError, call_error

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_ITEM = re.compile(r"^\w+\[\d+\]\.?")


def read_call_error(error: grpc.RpcError, method: str, timeout_seconds: float, request_id: str) -> CallError:
    """The exception for a failed call, sync or async: its code, message, and what its status details add."""
    trailing = dict(cast("Iterable[tuple[str, bytes]]", error.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(trailing.get("grpc-status-details-bin", b""))
    field, retry_after_seconds = _read_details(status)
    code = error.code()
    message = error.details() or code.name
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{method}: no answer within {round(timeout_seconds, 2):g} s"
    return call_error(code, message, field=field, request_id=request_id, retry_after_seconds=retry_after_seconds)


def read_item_errors(statuses: Sequence[Message], positions: Sequence[int], request_id: str) -> dict[int, CallError]:
    """Position -> error, of the items whose status is not OK.

    ``positions[i]`` is where item i stood in the caller's input. A service names a field by the item's place in its
    request ("records[3].id"), which means nothing to the caller; here the field is that of the item ("id").
    """
    errors = {}
    for status, position in zip(statuses, positions, strict=True):
        if status.code:
            field, _ = _read_details(status)
            code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
            own_field = _ITEM.sub("", field)
            message = status.message.removeprefix(f"{field}: ") if field else status.message
            errors[position] = call_error(
                code,
                f"{own_field}: {message}" if own_field else message,
                field=own_field,
                request_id=request_id,
                position=position,
            )
    return errors


def _read_details(status: Message) -> tuple[str, float | None]:
    field, retry_after_seconds = "", None
    for detail in status.details:
        bad_request, retry = error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
        if detail.Unpack(bad_request) and bad_request.field_violations:
            field = bad_request.field_violations[0].field
        elif detail.Unpack(retry):
            retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return field, retry_after_seconds
