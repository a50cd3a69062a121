"""What was computed -> the messages that say so.

Owns the mapping onto embedder_service.proto. Computes nothing.
"""

from collections.abc import Sequence

import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.vectors.numpy_codec import encode_vectors
from eyebright.vectors.v1.vectors_pb2 import ElementType
from google.rpc import status_pb2

from embedder_service.backends import Backend, Tower
from embedder_service.checkpoint import Checkpoint
from embedder_service.embedder import Embeddings
from embedder_service.items import Priority
from embedder_service.settings import EmbedderSettings
from service_runtime.errors import OK_STATUS, FailedPrecondition, InvalidArgument

_PRIORITIES: dict[int, Priority] = {
    messages.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    messages.PRIORITY_BULK: Priority.BULK,
}


def check_element_type(element_type: ElementType) -> None:
    """Raise InvalidArgument for a number that names no type."""
    if element_type not in ElementType.values():
        known = max(ElementType.values())
        raise InvalidArgument(f"expected an ElementType, 0 to {known}, not {element_type}", field="element_type")


def to_priority(number: messages.Priority, default: Priority) -> Priority:
    """Who goes first. Raises InvalidArgument for a number that names no priority."""
    if number == messages.PRIORITY_UNSPECIFIED:
        return default
    if number not in _PRIORITIES:
        known = max(messages.Priority.values())
        raise InvalidArgument(f"expected a Priority, 0 to {known}, not {number}", field="priority")
    return _PRIORITIES[number]


def to_pictures(request: messages.EmbedImagesRequest, model: messages.Model) -> Sequence[bytes] | np.ndarray:
    """The encoded images of a request, or its pixels (count, size, size, 3) uint8, which share its memory.

    Raises FailedPrecondition where pixels are not taken, InvalidArgument when they are not what they should be, or when
    there are both.
    """
    if not request.HasField("pixels"):
        return request.images
    if not model.accepts_pixels:
        raise FailedPrecondition("expected encoded images: the setting accept_pixels is false", field="pixels")
    if request.images:
        raise InvalidArgument(f"expected images or pixels, not both ({len(request.images)} images)", field="pixels")
    count, side, data = request.pixels.count, request.pixels.size, request.pixels.data
    if not 1 <= count <= model.max_items:
        raise InvalidArgument(f"expected 1 to {model.max_items} pictures, not {count}", field="pixels.count")
    if side != model.image_size:
        raise InvalidArgument(f"expected {model.image_size} pixels a side, not {side}", field="pixels.size")
    if len(data) != (expected := 3 * count * side * side):
        raise InvalidArgument(f"expected {expected} bytes, not {len(data)}", field="pixels.data")
    return np.frombuffer(data, np.uint8).reshape(count, side, side, 3)


def to_texts_response(
    embeddings: Embeddings, fingerprint: str, element_type: ElementType
) -> messages.EmbedTextsResponse:
    """The answer to EmbedTexts."""
    return messages.EmbedTextsResponse(
        vectors=encode_vectors(embeddings.vectors, fingerprint, element_type),
        statuses=_statuses(embeddings),
        truncated=embeddings.truncated,
        timings=_timings(embeddings),
    )


def to_images_response(
    embeddings: Embeddings, fingerprint: str, element_type: ElementType
) -> messages.EmbedImagesResponse:
    """The answer to EmbedImages."""
    return messages.EmbedImagesResponse(
        vectors=encode_vectors(embeddings.vectors, fingerprint, element_type),
        statuses=_statuses(embeddings),
        timings=_timings(embeddings),
    )


_TOWERS = {Tower.TEXT: messages.TOWER_TEXT, Tower.IMAGE: messages.TOWER_IMAGE}


def to_model(checkpoint: Checkpoint, backend: Backend, settings: EmbedderSettings) -> messages.Model:
    """What GetModel says."""
    return messages.Model(
        name=checkpoint.name,
        fingerprint=checkpoint.fingerprint,
        dimension=checkpoint.dimension,
        image_size=checkpoint.preprocessing.size,
        text_length=checkpoint.tokenizer.layout.length,
        logit_scale=checkpoint.logit_scale,
        logit_bias=checkpoint.logit_bias,
        max_items=settings.max_items,
        max_image_bytes=settings.max_image_bytes,
        max_image_pixels=settings.max_image_pixels,
        max_text_bytes=settings.max_text_bytes,
        accepts_pixels=settings.accept_pixels,
        towers=sorted(_TOWERS[tower] for tower in backend.towers),
        precision=backend.precision,
        revision=checkpoint.revision,
    )


def _statuses(embeddings: Embeddings) -> list[status_pb2.Status]:
    faults = embeddings.faults
    return [faults[i].to_status() if i in faults else OK_STATUS for i in range(len(embeddings.vectors))]


def _timings(embeddings: Embeddings) -> messages.EmbedTimings:
    timings = embeddings.timings
    return messages.EmbedTimings(
        decode_seconds=timings.decode_seconds,
        queue_seconds=timings.queue_seconds,
        forward_seconds=timings.forward_seconds,
    )
