"""A small real embedder of the contract, without torch, that can be told to make one well-known mistake."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import (
    EmbedderServiceServicer,
    add_EmbedderServiceServicer_to_server,
)
from eyebright.vectors.numpy_codec import FLOAT32, encode_vectors
from google.rpc import code_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from PIL import Image, ImageOps

FINGERPRINT = "ab" * 32
DIMENSION, LENGTH, SIDE = 48, 16, 16
_PAD, _END = 0, 1


class ToyEmbedder(EmbedderServiceServicer):
    """``mistake`` is what it does wrong; nothing when empty."""

    def __init__(self, mistake: str = "") -> None:
        self._mistake = mistake
        weights = np.random.default_rng(2 if mistake == "other weights" else 1)
        self._tokens = weights.normal(size=(258, DIMENSION))
        self._positions = weights.normal(size=(4096, DIMENSION))
        self._pixels = weights.normal(size=(SIDE * SIDE * 3, DIMENSION))
        self._noise = np.random.default_rng()

    def GetModel(self, request: Any, context: Any) -> messages.GetModelResponse:
        return messages.GetModelResponse(
            model=messages.Model(
                name="toy",
                fingerprint="unknown" if self._mistake == "no fingerprint" else FINGERPRINT,
                dimension=DIMENSION + (self._mistake == "another dimension"),
                image_size=SIDE,
                text_length=LENGTH,
                max_items=64,
                max_image_bytes=1 << 20,
                max_text_bytes=1 << 16,
                towers=[messages.TOWER_TEXT] if self._mistake == "no image tower" else [1, 2],  # type: ignore[list-item]
                precision="fp32",
            )
        )

    def EmbedTexts(self, request: Any, context: Any) -> messages.EmbedTextsResponse:
        ids = [self._ids(text) for text in request.texts]
        bad = [not text.strip() for text in request.texts]
        self._refuse(bad, context)
        cut = [place for place, row in enumerate(ids) if len(row) > LENGTH]
        if self._mistake == "cuts at the beginning":
            ids = [row[-LENGTH:] for row in ids]
        ids = [[*row[: LENGTH - 1], _END] if len(row) > LENGTH else row for row in ids]
        longest = max(map(len, ids)) if self._mistake == "pads to the longest" else LENGTH
        rows = [np.array(row + [_PAD] * (longest - len(row))) for row in ids]
        vectors = [np.tanh(self._tokens[row] + self._positions[: len(row)]).mean(axis=0) for row in rows]
        flagged = [] if self._mistake == "flags nothing" else cut
        batch, statuses = self._answer(vectors, bad)
        return messages.EmbedTextsResponse(vectors=batch, statuses=statuses, truncated=flagged)

    def EmbedImages(self, request: Any, context: Any) -> messages.EmbedImagesResponse:
        pixels = [self._decoded(data) for data in request.images]
        bad = [row is None for row in pixels]
        self._refuse(bad, context)
        blank = np.ones(SIDE * SIDE * 3)
        batch, statuses = self._answer([(blank if row is None else row) @ self._pixels for row in pixels], bad)
        return messages.EmbedImagesResponse(vectors=batch, statuses=statuses)

    def _ids(self, text: str) -> list[int]:
        if self._mistake != "keeps case":
            text = text.lower()
        if self._mistake != "keeps white space":
            text = " ".join(text.split())
        return [byte + 2 for byte in text.encode()] + [_END]

    def _decoded(self, data: bytes) -> np.ndarray | None:
        try:
            opened = Image.open(io.BytesIO(data))
            opened.load()
        except OSError:
            return None
        image: Image.Image = opened
        swapped = self._mistake == "swaps channels of WebP" and opened.format == "WEBP"
        if self._mistake != "ignores EXIF":
            image = ImageOps.exif_transpose(image)
        if image.mode == "RGBA" and self._mistake != "drops alpha":
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        row = np.asarray(image.convert("RGB").resize((SIDE, SIDE))) / 127.5 - 1
        return (row[..., ::-1] if swapped else row).reshape(-1)

    def _refuse(self, bad: list[bool], context: Any) -> None:
        if any(bad) and self._mistake == "fails whole requests":
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "something is wrong with something")

    def _answer(self, rows: list[np.ndarray], bad: list[bool]) -> tuple[Any, list[status_pb2.Status]]:
        vectors = np.stack(rows)
        if self._mistake == "one vector for all":
            vectors[:] = 1
        if self._mistake == "statistics of the batch":
            vectors = vectors - vectors.mean(axis=0) / 2
        if self._mistake == "another order":
            vectors = vectors[np.argsort(vectors[:, 0])]
        if self._mistake == "dropout":
            vectors = vectors * (self._noise.random(vectors.shape) > 0.1)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if self._mistake == "not of length 1":
            vectors *= 3
        wrong = [] if self._mistake == "embeds everything" else [place for place, is_bad in enumerate(bad) if is_bad]
        vectors[wrong] = 0
        code = code_pb2.INTERNAL if self._mistake == "blames itself" else code_pb2.INVALID_ARGUMENT
        statuses = [
            status_pb2.Status(code=code, message="bad") if place in wrong else status_pb2.Status()
            for place in range(len(rows))
        ]
        fingerprint = "cd" * 32 if self._mistake == "another fingerprint" else FINGERPRINT
        return encode_vectors(vectors.astype(np.float32), fingerprint, FLOAT32), statuses


@contextmanager
def toy_embedder(mistake: str = "") -> Iterator[str]:
    """The address of a running one."""
    server = grpc.server(ThreadPoolExecutor(4))
    add_EmbedderServiceServicer_to_server(ToyEmbedder(mistake), server)  # type: ignore[no-untyped-call]
    servicer = health.HealthServicer()
    well = mistake != "not serving"
    status = health_pb2.HealthCheckResponse.SERVING if well else health_pb2.HealthCheckResponse.NOT_SERVING
    servicer.set("eyebright.embedder.v1.EmbedderService", status)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
