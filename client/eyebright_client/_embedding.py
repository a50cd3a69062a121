"""Embedding captions and images: the operations behind ``embed_texts``, ``embed_images`` and ``embed_pixels``.

Owns cutting long inputs into requests. Performs no I/O but reading the caller's files, as a Work step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

import numpy as np

from eyebright_client import _messages
from eyebright_client._calls import Message, Operation, work
from eyebright_client._exceptions import CallError, FingerprintMismatch, InvalidArgument
from eyebright_client._images import EncodableImage, Image, image_bytes
from eyebright_client._limits import MAX_MESSAGE_BYTES, REQUEST_BYTES, batched
from eyebright_client._results import Embeddings, EmbedTimings, Modality, Model, Priority
from eyebright_client._session import Session

_ONE_IMAGE = (str, bytes, bytearray, memoryview, EncodableImage)
_METHODS: dict[Modality, str] = {"text": "EmbedTexts", "image": "EmbedImages"}


def get_model(session: Session) -> Operation[Model]:
    """Behind ``model``."""
    return (yield from session.model())


def embed_texts(
    session: Session, texts: str | Sequence[str], *, priority: Priority, recompute: bool
) -> Operation[Embeddings]:
    """Behind ``embed_texts``."""
    single = isinstance(texts, str)
    items = [texts] if single else list(texts)
    return (yield from _embed_all(session, "text", items, single, priority, recompute))


def embed_images(session: Session, images: Image | Sequence[Image], *, priority: Priority) -> Operation[Embeddings]:
    """Behind ``embed_images``."""
    single = isinstance(images, _ONE_IMAGE) or hasattr(images, "__fspath__")
    items = [images] if single else list(images)  # type: ignore[arg-type]
    return (yield from _embed_all(session, "image", items, single, priority))


def embed_pixels(session: Session, pixels: np.ndarray, *, priority: Priority) -> Operation[Embeddings]:
    """Behind ``embed_pixels``."""
    _check_priority(priority)
    session.require_embedder("embedding an image")
    model = yield from session.model(lambda: session.timeouts.embed)
    _check_pixels(pixels, model.image_size)
    step = max(1, min(model.max_items, REQUEST_BYTES // (3 * model.image_size**2)))
    requests = (
        (
            range(begin, min(begin + step, len(pixels))),
            _messages.embed_pixels_request(pixels[begin : begin + step], priority),
        )
        for begin in range(0, len(pixels), step)
    )
    return (yield from _gather(session, "image", len(pixels), requests, {}, lambda: session.timeouts.embed))


def _check_pixels(pixels: object, side: int) -> None:
    if not isinstance(pixels, np.ndarray):
        raise InvalidArgument(f"pixels: expected a numpy array, not {type(pixels).__name__}", field="pixels")
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (side, side, 3):
        raise InvalidArgument(
            f"pixels: expected shape (n, {side}, {side}, 3) of uint8, not {pixels.shape} of {pixels.dtype}",
            field="pixels",
        )


def _check_priority(priority: Priority) -> None:
    if priority not in get_args(Priority):
        known = " or ".join(repr(name) for name in get_args(Priority))
        raise InvalidArgument(f"priority: expected {known}, not {priority!r}", field="priority")


def _embed_all(
    session: Session,
    modality: Modality,
    items: Sequence[object],
    single: bool,
    priority: Priority,
    recompute: bool = False,
) -> Operation[Embeddings]:
    _check_priority(priority)
    embeddings = yield from embed(session, modality, items, lambda: session.timeouts.embed, priority, recompute)
    if single and embeddings.errors:
        raise alone(embeddings.errors[0])
    return embeddings


def alone(error: CallError) -> CallError:
    """The error of the only item of a call: it needs no position."""
    error.position = None
    return error


def embed(
    session: Session,
    modality: Modality,
    items: Sequence[object],
    wait: Callable[[], float],
    priority: Priority = "interactive",
    recompute: bool = False,
) -> Operation[Embeddings]:
    """Vectors of captions or images in as many requests as needed; ``wait`` gives the timeout of each, in seconds.

    Raises FingerprintMismatch when the embedder changes its model in between.
    """
    session.require_embedder("embedding a caption" if modality == "text" else "embedding an image")
    model = yield from session.model(wait)
    errors: dict[int, CallError] = {}
    batches = batched(
        _prepared(modality, items, model, errors),
        lambda item: len(item[1]),
        max_items=model.max_items,
        max_bytes=REQUEST_BYTES,
    )
    requests = (
        (
            [position for position, _ in batch],
            _messages.embed_request(modality, [item for _, item in batch], priority, recompute),
        )
        for batch in batches
    )
    return (yield from _gather(session, modality, len(items), requests, errors, wait))


def _gather(
    session: Session,
    modality: Modality,
    count: int,
    requests: Iterator[tuple[Sequence[int], Message]],
    errors: dict[int, CallError],
    wait: Callable[[], float],
) -> Operation[Embeddings]:
    """The answers to requests, each with the positions of its items, put together; ``errors`` are known already."""
    model = yield from session.model(wait)
    vectors = np.zeros((count, model.dimension), np.float32)
    truncated: set[int] = set()
    timings, fingerprint = EmbedTimings(), ""
    while batch := (yield from work(lambda: next(requests, None))):
        positions, request = batch
        response = yield from session.embedder(_METHODS[modality], request, wait())
        part = _messages.read_embeddings(response, modality, session.request_id)
        if fingerprint and part.fingerprint != fingerprint:
            raise FingerprintMismatch(
                f"the embedder changed its model during the call, from fingerprint {fingerprint} to {part.fingerprint}",
                request_id=session.request_id,
            )
        fingerprint = part.fingerprint
        if part.vectors.shape[1] != vectors.shape[1]:  # the first answer of a model that replaced the one we knew
            vectors = np.zeros((count, part.vectors.shape[1]), np.float32)
        vectors[list(positions)] = part.vectors
        truncated.update(positions[row] for row in part.truncated)
        for row, error in part.errors.items():
            error.position = positions[row]
            errors[positions[row]] = error
        timings += part.timings
    session.notice_fingerprint(fingerprint)
    return Embeddings(
        vectors, fingerprint or model.fingerprint, modality, frozenset(truncated), dict(sorted(errors.items())), timings
    )


def _prepared(
    modality: Modality, items: Sequence[object], model: Model, errors: dict[int, CallError]
) -> Iterator[tuple[int, bytes]]:
    """(position, bytes) of the items worth sending, read one after another; the others go to ``errors``.

    Only what would break the message limit or can't be encoded is judged here; the embedder judges the rest.
    """
    prepare = _text_bytes if modality == "text" else image_bytes
    limit = model.max_text_bytes if modality == "text" else min(model.max_image_bytes, MAX_MESSAGE_BYTES - 2**20)
    for position, item in enumerate(items):
        try:
            yield position, prepare(item, limit, position)  # type: ignore[arg-type]
        except CallError as error:
            errors[position] = error


def _text_bytes(text: object, max_bytes: int, position: int) -> bytes:
    if not isinstance(text, str):
        raise InvalidArgument(f"expected a caption, not {type(text).__name__}", position=position)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"the caption is no Unicode text: {error}", position=position) from error
    if len(data) > max_bytes:
        raise InvalidArgument(f"expected a caption of at most {max_bytes} bytes, not {len(data)}", position=position)
    return data
