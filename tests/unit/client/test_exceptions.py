"""Every status has its exception, and exceptions say what went wrong."""

import pickle

import eyebright_client
import grpc
import pytest
from eyebright_client import (
    CallError,
    EyebrightError,
    FailedPrecondition,
    FingerprintMismatch,
    InternalError,
    InvalidArgument,
)
from eyebright_client import _exceptions as exceptions
from eyebright_client._exceptions import TRANSLATIONS, call_error


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_code_is_translated(code: grpc.StatusCode) -> None:
    assert [kind for known, word, kind in TRANSLATIONS if known is code and not word]
    error = call_error(code, "what happened", request_id="r1")
    assert error.code is code
    assert "what happened" in str(error)
    assert code.name in str(error)
    assert "r1" in str(error)


def test_ok_is_no_error() -> None:
    assert grpc.StatusCode.OK not in {code for code, _, _ in TRANSLATIONS}


def test_specific_rows_come_first() -> None:
    seen: set[grpc.StatusCode] = set()
    for code, word, _ in TRANSLATIONS:
        assert code not in seen, f"{code} with {word!r} can't be reached"
        if not word:
            seen.add(code)


def test_fingerprint_mismatch_says_what_to_do() -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    error = call_error(code, "vectors.fingerprint: expected aa, not bb", field="vectors.fingerprint")
    assert type(error) is FingerprintMismatch
    assert "aa" in str(error)
    assert "bb" in str(error)
    assert "new collection" in str(error)
    assert type(call_error(code, "the shard is read-only")) is FailedPrecondition


def test_errors_keep_what_is_known() -> None:
    error = call_error(
        grpc.StatusCode.INVALID_ARGUMENT,
        "id: too long",
        field="id",
        request_id="r1",
        position=7,
        retry_after_seconds=2.5,
    )
    copy = pickle.loads(pickle.dumps(error))
    for one in (error, copy):
        assert type(one) is InvalidArgument
        assert (one.message, one.field, one.request_id, one.position) == ("id: too long", "id", "r1", 7)
        assert one.retry_after_seconds == 2.5
        assert str(one) == "item 7: id: too long (INVALID_ARGUMENT, request r1)"


def test_docstring_draws_the_whole_tree() -> None:
    drawn = exceptions.__doc__ or ""
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, EyebrightError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert f"{kind.__name__}" in drawn
        assert getattr(eyebright_client, kind.__name__) is kind


def test_unknown_faults_of_a_server_are_internal() -> None:
    assert type(call_error(grpc.StatusCode.UNKNOWN, "?")) is InternalError
    assert issubclass(InternalError, CallError)
