"""Page tokens: where a listing goes on, in a form that callers can't mistake for an id.

Owns writing and checking them. A token holds good for the collection it was made for, and for no other of that name.
"""

import base64
from hashlib import blake2b

from service_runtime.errors import InvalidArgument

_DIGEST_BYTES = 8


def write_page_token(collection: str, create_time_ns: int, last_id: str) -> str:
    """The token to go on after ``last_id``; empty for an empty id."""
    if not last_id:
        return ""
    digest = _digest(collection, create_time_ns, last_id.encode())
    return base64.urlsafe_b64encode(digest + last_id.encode()).decode("ascii")


def read_page_token(collection: str, create_time_ns: int, token: str) -> str:
    """The id to go on after. Raises InvalidArgument for anything but a token of this collection."""
    if not token:
        return ""
    try:
        data = base64.b64decode(token.encode(), altchars=b"-_", validate=True)
        last_id = data[_DIGEST_BYTES:].decode()
    except ValueError:  # no base64, or no UTF-8 in it
        data, last_id = b"", ""
    if not last_id or data[:_DIGEST_BYTES] != _digest(collection, create_time_ns, last_id.encode()):
        raise InvalidArgument(
            f"expected a next_page_token of collection {collection!r}, not {token[:80]!r}", field="page_token"
        )
    return last_id


def _digest(collection: str, create_time_ns: int, last_id: bytes) -> bytes:
    """Guards against mistakes, not against forgery: a forged token tells nothing that a listing does not."""
    return blake2b(f"{collection}@{create_time_ns}@".encode() + last_id, digest_size=_DIGEST_BYTES).digest()
