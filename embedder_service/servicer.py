"""The gRPC face of the embedder: parse, call, reply.

Owns the RPCs of EmbedderService and the order and bound of a stream. Decides nothing about captions, images or vectors.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import (
    EmbedderServiceServicer,
    add_EmbedderServiceServicer_to_server,
)
from grpc import aio

from embedder_service.admission import Room
from embedder_service.backends import Tower
from embedder_service.converters import (
    check_element_type,
    to_images_response,
    to_pictures,
    to_priority,
    to_texts_response,
)
from embedder_service.embedder import Embedder
from embedder_service.items import Priority
from service_runtime.errors import InvalidArgument

SERVICE_NAME = messages.DESCRIPTOR.services_by_name["EmbedderService"].full_name

Context = aio.ServicerContext[Any, Any]


class EmbedderServicer(EmbedderServiceServicer):
    """Answers for one embedder."""

    def __init__(self, embedder: Embedder, model: messages.Model, stream_window: int) -> None:
        self._embedder = embedder
        self._model = model
        self._stream_window = stream_window

    async def GetModel(
        self,
        request: messages.GetModelRequest,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> messages.GetModelResponse:
        """Which checkpoint is served, and its limits."""
        return messages.GetModelResponse(model=self._model)

    async def EmbedTexts(self, request: messages.EmbedTextsRequest, context: Context) -> messages.EmbedTextsResponse:
        """Embed captions."""
        return await self._texts(request, _deadline(context), Priority.INTERACTIVE)

    async def EmbedImages(self, request: messages.EmbedImagesRequest, context: Context) -> messages.EmbedImagesResponse:
        """Embed images."""
        return await self._images(request, _deadline(context), Priority.INTERACTIVE)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[messages.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[messages.EmbedStreamResponse]:
        """Embed batches side by side, answer them in order.

        A batch is read only while fewer than the window are between arrival and answer, and once there is room for the
        batch before it, so a caller that sends fast or reads slowly is held back by gRPC's flow control and costs a
        bounded amount of memory.
        """
        deadline = _deadline(context)
        window = asyncio.Semaphore(self._stream_window)
        answers: asyncio.Queue[asyncio.Task[messages.EmbedStreamResponse] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[object]] = set()

        async def read() -> None:
            try:
                await window.acquire()
                async for request in request_iterator:
                    room = await self._room(request)
                    answer = asyncio.create_task(self._batch(request, deadline, room))
                    answer.add_done_callback(room.release)  # also if it was never begun
                    tasks.add(answer)
                    answers.put_nowait(answer)
                    await window.acquire()
            finally:
                answers.put_nowait(None)

        reader = asyncio.create_task(read())
        tasks.add(reader)
        try:
            while (answer := await answers.get()) is not None:
                response = await answer
                tasks.discard(answer)
                yield response
                window.release()
            await reader
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _room(self, request: messages.EmbedStreamRequest) -> Room:
        if request.WhichOneof("batch") == "texts":
            return await self._embedder.wait_for_room(Tower.TEXT, request.texts.texts)
        return await self._embedder.wait_for_room(Tower.IMAGE, to_pictures(request.images, self._model))

    async def _batch(
        self, request: messages.EmbedStreamRequest, deadline: float, room: Room
    ) -> messages.EmbedStreamResponse:
        response = messages.EmbedStreamResponse(batch_id=request.batch_id)
        kind = request.WhichOneof("batch")
        if kind == "texts":
            response.texts.CopyFrom(await self._texts(request.texts, deadline, Priority.BULK, room))
        elif kind == "images":
            response.images.CopyFrom(await self._images(request.images, deadline, Priority.BULK, room))
        else:
            raise InvalidArgument("expected texts or images, not an empty message", field="batch")
        return response

    async def _texts(
        self, request: messages.EmbedTextsRequest, deadline: float, default: Priority, room: Room | None = None
    ) -> messages.EmbedTextsResponse:
        check_element_type(request.element_type)
        priority = to_priority(request.priority, default)
        embeddings = await self._embedder.embed_texts(request.texts, deadline, priority, room, request.recompute)
        return to_texts_response(embeddings, self._model.fingerprint, request.element_type)

    async def _images(
        self, request: messages.EmbedImagesRequest, deadline: float, default: Priority, room: Room | None = None
    ) -> messages.EmbedImagesResponse:
        check_element_type(request.element_type)
        priority = to_priority(request.priority, default)
        pictures = to_pictures(request, self._model)
        embeddings = await self._embedder.embed_images(pictures, deadline, priority, room)
        return to_images_response(embeddings, self._model.fingerprint, request.element_type)


def _deadline(context: Context) -> float:
    """When the caller stops waiting, on time.monotonic()'s scale; infinity when it set no deadline."""
    remaining = context.time_remaining()
    return float("inf") if remaining is None else time.monotonic() + remaining


def register(servicer: EmbedderServicer, server: aio.Server) -> None:
    """Add the servicer to a server."""
    add_EmbedderServiceServicer_to_server(servicer, server)
