"""Requests that no client makes, drawn by hypothesis from the contract: any bytes, well-formed messages that mean
anything, and such messages with bytes changed.

Owns how they are drawn, sent and judged. Knows no service. EYEBRIGHT_FUZZ_SEED repeats a long run.
"""

import os
import random
import sys
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

CLEAN = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""Answers that say whose fault it is. INTERNAL, UNKNOWN and a deadline that passes are this server's."""

Known = Mapping[str, st.SearchStrategy[Any]]
"""By a field's name, values that get a request further than a random one would."""

_DEPTH = 5
_INTEGERS = [0, 1, 2, 3, 8, 9, 255, 256, 1_000, 1_001, 100_000, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]
_WITHIN = {
    FieldDescriptor.CPPTYPE_INT32: range(-(2**31), 2**31),
    FieldDescriptor.CPPTYPE_INT64: range(-(2**63), 2**63),
    FieldDescriptor.CPPTYPE_UINT32: range(2**32),
    FieldDescriptor.CPPTYPE_UINT64: range(2**64),
    FieldDescriptor.CPPTYPE_ENUM: range(10),
}


def hammer(channel: grpc.Channel, method: MethodDescriptor, known: Known, examples: int, *, anew: bool) -> None:
    """Send so many drawn calls of a method; each has to end clean. The same ones every time, unless ``anew``."""

    def each(raw: list[bytes]) -> None:
        code, details = outcome(channel, method, raw)
        assert code in CLEAN, f"{code}: {details}"

    bounds = settings(
        max_examples=examples,
        derandomize=not anew,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    each([])
    test = bounds(given(st.lists(requests(method.input_type, known), min_size=1, max_size=2))(each))
    if anew:
        number = int(os.environ.get("EYEBRIGHT_FUZZ_SEED") or random.randrange(2**32))
        sys.stdout.write(f"EYEBRIGHT_FUZZ_SEED={number} {method.full_name}\n")
        test = seeded(number)(test)
    test()


def outcome(channel: grpc.Channel, method: MethodDescriptor, raw: list[bytes]) -> tuple[grpc.StatusCode, str]:
    """(code, details) of a call that sends these bytes, however many requests its method takes."""
    service, _, name = method.full_name.rpartition(".")
    call: Any = channel.stream_stream(f"/{service}/{name}")
    try:
        for answer in call(iter(raw), timeout=60):
            GetMessageClass(method.output_type).FromString(answer)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def requests(descriptor: Descriptor, known: Known) -> st.SearchStrategy[bytes]:
    """The bytes of one request."""
    written = messages(descriptor, known).map(lambda message: message.SerializeToString())
    return st.one_of(written, written, written.flatmap(_changed), st.binary(max_size=200))


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor, known: Known, depth: int = _DEPTH) -> Message:
    """A well-formed message: all that is known and little more, so that it gets far; or anything."""
    message = GetMessageClass(descriptor)()
    careful = draw(st.sampled_from([True, True, False]))
    for field in descriptor.fields:
        good = known.get(field.name)
        if careful and good is not None:
            _fill(draw, message, field, good)
        elif draw(st.integers(0, 9)) > (8 if careful else 4) and (depth or field.message_type is None):
            _fill(draw, message, field, _values(field, known, depth))
    return message


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, value: st.SearchStrategy[Any]) -> None:
    if field.is_repeated:
        getattr(message, field.name).extend(draw(st.lists(value, min_size=1, max_size=3)))
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(draw(value))
    else:
        setattr(message, field.name, draw(value))


def _values(field: FieldDescriptor, known: Known, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return messages(field.message_type, known, depth - 1)
    if field.cpp_type in _WITHIN:
        within = _WITHIN[field.cpp_type]
        return st.sampled_from([number for number in (*_INTEGERS, -1) if number in within])
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64)
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.text(max_size=20)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    return st.floats(width=32) | st.sampled_from([0.0, 0.5, 0.99, 1.0])


@st.composite
def _changed(draw: st.DrawFn, whole: bytes) -> bytes:
    """With bytes set, left out or put in, or with its end cut off."""
    changed = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(changed)))
        length = draw(st.integers(0, 3))
        changed[place : place + length] = draw(st.binary(max_size=3))
    return bytes(changed[: draw(st.integers(0, len(changed)))] if draw(st.booleans()) else changed)
