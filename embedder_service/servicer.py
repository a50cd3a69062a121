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

from embedder_service.backends import Tower
from embedder_service.converters import check_element_type, to_images_response, to_texts_response
from embedder_service.embedder import Embedder
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
        return await self._texts(request, _deadline(context))

    async def EmbedImages(self, request: messages.EmbedImagesRequest, context: Context) -> messages.EmbedImagesResponse:
        """Embed images."""
        return await self._images(request, _deadline(context))

    async def EmbedStream(
        self, request_iterator: AsyncIterator[messages.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[messages.EmbedStreamResponse]:
        """Embed batches side by side, answer them in order.

        A batch is read only while fewer than the window are between arrival and answer, so a caller that sends fast or
        reads slowly is held back by gRPC's flow control and costs a bounded amount of memory.
        """
        deadline = _deadline(context)
        window = asyncio.Semaphore(self._stream_window)
        answers: asyncio.Queue[asyncio.Task[messages.EmbedStreamResponse] | None] = asyncio.Queue()
        tasks: set[asyncio.Task[object]] = set()

        async def read() -> None:
            try:
                await window.acquire()
                async for request in request_iterator:
                    answer = asyncio.create_task(self._batch(request, deadline))
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

    async def _batch(self, request: messages.EmbedStreamRequest, deadline: float) -> messages.EmbedStreamResponse:
        response = messages.EmbedStreamResponse(batch_id=request.batch_id)
        kind = request.WhichOneof("batch")
        if kind == "texts":
            await self._embedder.wait_for_room(Tower.TEXT, len(request.texts.texts))
            response.texts.CopyFrom(await self._texts(request.texts, deadline))
        elif kind == "images":
            await self._embedder.wait_for_room(Tower.IMAGE, len(request.images.images))
            response.images.CopyFrom(await self._images(request.images, deadline))
        else:
            raise InvalidArgument("expected texts or images, not an empty message", field="batch")
        return response

    async def _texts(self, request: messages.EmbedTextsRequest, deadline: float) -> messages.EmbedTextsResponse:
        check_element_type(request.element_type)
        embeddings = await self._embedder.embed_texts(request.texts, deadline)
        return to_texts_response(embeddings, self._model.fingerprint, request.element_type)

    async def _images(self, request: messages.EmbedImagesRequest, deadline: float) -> messages.EmbedImagesResponse:
        check_element_type(request.element_type)
        embeddings = await self._embedder.embed_images(request.images, deadline)
        return to_images_response(embeddings, self._model.fingerprint, request.element_type)


def _deadline(context: Context) -> float:
    """When the caller stops waiting, on time.monotonic()'s scale; infinity when it set no deadline."""
    remaining = context.time_remaining()
    return float("inf") if remaining is None else time.monotonic() + remaining


def register(servicer: EmbedderServicer, server: aio.Server) -> None:
    """Add the servicer to a server."""
    add_EmbedderServiceServicer_to_server(servicer, server)
