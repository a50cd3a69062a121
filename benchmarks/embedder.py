"""The embedder over gRPC, against what the machine can do: ``python -m benchmarks.embedder --work FOLDER``.

Owns the measurements through a real server, each beside its reference of the same run. What the towers reach without
gRPC stands in ``towers``. Server and references compute in turn, never at the same time; OpenMP's threads must wait
here as they do in the service (see the Makefile), or those of one would keep the cores from the other.
"""

import asyncio
import itertools
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import torch
import typer
from eyebright.embedder.v1 import embedder_service_pb2 as messages
from eyebright.embedder.v1.embedder_service_pb2_grpc import EmbedderServiceStub
from eyebright_cli.demo.gallery import gallery_tar, read_gallery
from PIL import Image
from rich.console import Console
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip.modeling_siglip import SiglipModel

from benchmarks.report import Figure, Goal, machine, report
from benchmarks.towers import gflops
from embedder_service.backends import Precision, Tower
from embedder_service.backends.torch_backend import TorchBackend
from embedder_service.checkpoint import Checkpoint, load_checkpoint
from embedder_service.checkpoint_files import DEMO_FOLDER, find_checkpoint
from embedder_service.images import ImageDecoder
from embedder_service.servicer import SERVICE_NAME
from embedder_service.sweep import sweep
from service_runtime.cores import usable_cores
from service_runtime.memory import keep_freed_memory, resident_bytes
from tests.conformance.families import FAMILIES
from tests.integration.embedder_service.weather import weather
from tests.processes import RunningService, running_service

BASE, LARGE, DEMO = "siglip-base-patch16-224", "siglip-so400m-patch14-384", "demo"

_LARGE_MESSAGES = [("grpc.max_send_message_length", 64 << 20), ("grpc.max_receive_message_length", 64 << 20)]
_EMBED_IMAGES = f"/{SERVICE_NAME}/EmbedImages"
_CALLERS = 8
_DECODE_LIMITS = (20 << 20, 64_000_000)
_SIZES = (1, 2, 4, 8, 16, 32)
_LOOK_SECONDS = 0.5
"""How often the server's memory is looked at."""

_WORDS = (
    "red",
    "blue",
    "small",
    "large",
    "old",
    "wooden",
    "dog",
    "cat",
    "house",
    "tree",
    "boat",
    "river",
    "hill",
    "night",
)


@dataclass(slots=True)
class Bench:
    """Where the checkpoints lie, and the figures so far."""

    work: Path
    figures: list[Figure] = field(default_factory=list)

    def add(self, what: str, measured: str, reference: str = "", goal: Goal | None = None, value: float = 0.0) -> None:
        """Note a figure, and say it."""
        self.figures.append(Figure(what, measured, reference, goal, value))
        Console(width=170).print(" | ".join(cell for cell in self.figures[-1].cells() if cell))

    def checkpoint(self, name: str) -> Path:
        """The folder of a checkpoint: the bundled one, or random weights of a published shape, written once.

        The tokenizer is the demo's, and the vocabulary its 4,096: nothing but the size of a table hangs on it.
        """
        if name == DEMO:
            return DEMO_FOLDER
        folder = self.work / "checkpoints" / name
        if not (folder / "complete").exists():
            folder.mkdir(parents=True, exist_ok=True)
            family = FAMILIES[name]
            model: Any = family.model()
            vocabulary = json.loads((DEMO_FOLDER / "config.json").read_text("utf-8"))["text_config"]["vocab_size"]
            model.text_model.embeddings.token_embedding = torch.nn.Embedding(vocabulary, family.encoder["hidden_size"])
            model.config.text_config.vocab_size = vocabulary
            model.save_pretrained(folder)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                (folder / file).write_bytes((DEMO_FOLDER / file).read_bytes())
            side = family.image_size
            stated = {"size": {"height": side, "width": side}, "resample": int(family.resample)}
            (folder / "preprocessor_config.json").write_text(json.dumps(stated), "utf-8")
            (folder / "complete").touch()
        return folder

    def loaded(self, name: str) -> Checkpoint:
        """A checkpoint in this process."""
        return load_checkpoint(find_checkpoint(str(self.checkpoint(name))), 32_768)


@dataclass(frozen=True, slots=True)
class Served:
    """A running embedder."""

    stub: EmbedderServiceStub
    model: messages.Model
    service: RunningService
    embed_images: Callable[..., Awaitable[messages.EmbedImagesResponse]]
    """From the bytes of an EmbedImagesRequest."""

    async def images(self, images: Sequence[bytes]) -> None:
        """Embed pictures, all of which must succeed."""
        await self.written(messages.EmbedImagesRequest(images=images).SerializeToString())

    async def written(self, request: bytes, **options: object) -> None:
        """The same from the bytes of a request."""
        answer = await self.embed_images(request, **options)
        if any(status.code for status in answer.statuses):
            raise RuntimeError(f"a picture was refused: {answer.statuses}")

    async def caption(self, text: str) -> None:
        """Embed a caption."""
        await self.stub.EmbedTexts(messages.EmbedTextsRequest(texts=[text]))

    def anonymous_bytes(self) -> int:
        """Resident memory of the server's process that is not a file's (RssAnon)."""
        return resident_bytes(process=self.service.process.pid)["anonymous"]


@asynccontextmanager
async def served(bench: Bench, name: str, *arguments: str) -> AsyncIterator[Served]:
    """A server of a checkpoint in a process of its own, for the length of a block."""
    arguments = ("--model", str(bench.checkpoint(name)), "--log-level", "error", *arguments)
    with running_service("embedder_service", bench.work / "logs", *arguments) as service:
        async with grpc.aio.insecure_channel(service.address, _LARGE_MESSAGES) as channel:
            stub = EmbedderServiceStub(channel)  # type: ignore[no-untyped-call]
            model = (await stub.GetModel(messages.GetModelRequest())).model
            parse = messages.EmbedImagesResponse.FromString
            yield Served(stub, model, service, channel.unary_unary(_EMBED_IMAGES, response_deserializer=parse))


def photographs(count: int, seed: int = 1) -> list[bytes]:
    """JPEGs of 640 x 480: colours that run into each other, with grain, about 100 KB each like a photograph's."""
    draw = np.random.default_rng(seed)
    pictures = []
    for _ in range(count):
        rough = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((640, 480))
        grain = draw.normal(0, 12, (480, 640, 1))
        pixels = np.clip(np.asarray(rough, np.float32) + grain, 0, 255).astype(np.uint8)
        encoded = BytesIO()
        Image.fromarray(pixels).save(encoded, "JPEG", quality=88)
        pictures.append(encoded.getvalue())
    return pictures


def gallery() -> list[bytes]:
    """The encoded pictures of the demo gallery."""
    with gallery_tar() as tar:
        return [picture.png for picture in read_gallery(tar).values()]


def captions(seed: int) -> Iterator[str]:
    """Captions of eight words, no two alike."""
    draw = random.Random(seed)  # noqa: S311
    for number in itertools.count():
        yield f"{' '.join(draw.choices(_WORDS, k=7))} {number}"


async def throughput(one: Callable[[], Awaitable[object]], callers: int, seconds: float) -> float:
    """Calls a second of so many callers, each waiting for its answer, counted by their ends once all are under way."""
    await one()
    begins = time.perf_counter() + seconds / 4
    ends = begins + seconds
    answered = 0

    async def call() -> None:
        nonlocal answered
        while time.perf_counter() < ends:
            await one()
            answered += begins <= time.perf_counter() < ends

    await asyncio.gather(*(call() for _ in range(callers)))
    return answered / seconds


async def latencies(one: Callable[[], Awaitable[object]], count: int, pause: float = 0.0) -> list[float]:
    """Seconds of calls, one after another, sorted."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        await one()
        taken.append(time.perf_counter() - began)
        await asyncio.sleep(pause)
    return sorted(taken)


def fastest(call: Callable[[], object], rounds: int) -> float:
    """Seconds of the quickest call."""
    best = float("inf")
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def p99(seconds: Sequence[float]) -> float:
    """Of sorted seconds."""
    return seconds[min(len(seconds) - 1, int(len(seconds) * 0.99))]


async def tower_limit(bench: Bench, name: str, gflop: float, seconds: float, per_call: int) -> float:
    """Images a second over gRPC against the products of the same type; returns the images a second."""
    pictures = itertools.cycle(photographs(32))
    async with served(bench, name) as server:
        before = gflops(Precision(server.model.precision))
        rate = per_call * await throughput(
            lambda: server.images([next(pictures) for _ in range(per_call)]), _CALLERS, seconds
        )
        limit = max(before, gflops(Precision(server.model.precision))) / gflop
        bench.add(
            f"{name}, {server.model.precision}: images/s over gRPC, {_CALLERS} callers of {per_call}",
            f"{rate:.2f} = {rate / limit:.0%}",
            f"{limit:.2f} ({limit * gflop:,.0f} GFLOP/s / {gflop:g})",
            Goal(70, 90, " %", lower=False),
            100 * rate / limit,
        )
    return rate


def usual_loop(bench: Bench, rate: float) -> None:
    """What the paper did: transformers' processor and model in fp32, eight pictures at a time."""
    folder = bench.checkpoint(BASE)
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    model: Any = SiglipModel.from_pretrained(folder, dtype=torch.float32)
    pictures = photographs(8)

    def loop() -> None:
        with torch.inference_mode():
            opened = [Image.open(BytesIO(picture)).convert("RGB") for picture in pictures]
            model.get_image_features(**processor(images=opened, return_tensors="pt"))

    loop()
    usual = len(pictures) / fastest(loop, 3)
    bench.add(
        "the same against the usual loop: transformers' processor and model, fp32, 8 at a time",
        f"{rate:.2f} = {rate / usual:.2f}x",
        f"{usual:.2f} images/s",
        Goal(1.8, 3, "x", lower=False),
        rate / usual,
    )


async def texts(bench: Bench) -> None:
    """One caption at a time, new and repeated."""
    checkpoint = bench.loaded(BASE)
    async with served(bench, BASE, "--towers", "text") as server:
        bare = TorchBackend(
            {Tower.TEXT: checkpoint.towers[Tower.TEXT]},
            checkpoint.preprocessing,
            "cpu",
            usable_cores(),
            server.model.precision,
        )
        row = checkpoint.tokenizer.tokenise(["a photo"], "texts")[0]
        if isinstance(row, Exception):
            raise row
        new = captions(1)
        over_grpc, alone = [], []
        await server.caption(next(new))
        bare.forward(Tower.TEXT, row.token_ids[None])
        for _ in range(40):
            over_grpc += await latencies(lambda: server.caption(next(new)), 1)
            alone.append(fastest(lambda: bare.forward(Tower.TEXT, row.token_ids[None]), 1))
        mine, theirs = statistics.median(over_grpc), statistics.median(alone)
        bench.add(
            f"{BASE}, {server.model.precision}: one new caption over gRPC, p50",
            f"{mine * 1e3:.1f} ms = {mine / theirs:.2f}x",
            f"{theirs * 1e3:.1f} ms, the bare pass",
            Goal(1.15, 1.05, "x"),
            mine / theirs,
        )
        again = statistics.median(await latencies(lambda: server.caption("a photo of a dog"), 1000))
        bench.add(
            "a caption asked again, over gRPC, p50", f"{again * 1e3:.2f} ms", "", Goal(1.5, 0.8, " ms"), again * 1e3
        )


async def small_tower(bench: Bench) -> float:
    """The demo checkpoint, where everything but the pass weighs most; returns its images a second."""
    checkpoint = bench.loaded(DEMO)
    backend = TorchBackend(checkpoint.towers, checkpoint.preprocessing, "cpu", usable_cores(), "fp32")
    pictures = gallery()
    decode = ImageDecoder(checkpoint.preprocessing, *_DECODE_LIMITS).decode
    rows = np.stack([decode(picture, "images") for picture in pictures[:256]])
    best = sweep(backend, Tower.IMAGE, rows[0], (*_SIZES, 64, 128, 256), 20.0).batch_limit
    batch = rows[:best]
    turning = itertools.cycle(pictures)
    async with served(bench, DEMO) as server:
        rates, bare = [], []
        for _ in range(3):
            bare.append(best / fastest(lambda: backend.forward(Tower.IMAGE, batch), 30))
            rates.append(32 * await throughput(lambda: server.images([next(turning) for _ in range(32)]), _CALLERS, 6))
        rate, limit = statistics.median(rates), statistics.median(bare)
        bench.add(
            f"demo checkpoint: images/s over gRPC, {_CALLERS} callers of 32 encoded pictures",
            f"{rate:.0f} = {rate / limit:.0%}",
            f"{limit:.0f}, the bare pass at its best batch of {best}, nothing decoded",
            Goal(70, 90, " %", lower=False),
            100 * rate / limit,
        )
        await beside_bulk(bench, server, pictures)
    return rate


async def beside_bulk(bench: Bench, server: Served, pictures: Sequence[bytes]) -> None:
    """One picture at a time, alone and while a stream keeps the device busy."""
    turning, stopped = itertools.cycle(pictures), asyncio.Event()

    async def flood() -> AsyncIterator[messages.EmbedStreamRequest]:
        while not stopped.is_set():
            images = [next(turning) for _ in range(64)]
            yield messages.EmbedStreamRequest(images=messages.EmbedImagesRequest(images=images))

    async def drink() -> list[float]:
        return [answer.images.timings.forward_seconds async for answer in server.stub.EmbedStream(flood())]

    idle = await latencies(lambda: server.images([next(turning)]), 500, pause=0.005)
    stream = asyncio.create_task(drink())
    await asyncio.sleep(3.0)
    busy = await latencies(lambda: server.images([next(turning)]), 500, pause=0.02)
    stopped.set()
    batch = statistics.median(await stream)
    more = (p99(busy) - p99(idle)) / batch
    bench.add(
        "one picture while a stream of bulk keeps the device busy: p99 more than alone, in batches of the stream",
        f"{p99(busy) * 1e3:.0f} ms = {more:.1f} batches more",
        f"{p99(idle) * 1e3:.0f} ms alone; a batch takes {batch * 1e3:.0f} ms",
        Goal(2.0),
        more,
    )


@dataclass(slots=True)
class _Storm:
    """What became of the calls of an overload."""

    answered: int = 0
    refused: int = 0
    late: int = 0


async def overload(bench: Bench, seconds: float, times: float = 4.0, deadline: float = 2.0) -> None:
    """Calls of 16 pictures at random moments, more than can be answered, whatever becomes of earlier ones."""
    pictures = gallery()
    # Written beforehand: the caller is on the server's cores.
    written = [
        messages.EmbedImagesRequest(images=pictures[begin : begin + 16]).SerializeToString()
        for begin in range(0, len(pictures) - 16, 16)
    ]
    requests = itertools.cycle(written)
    draw = random.Random(1)  # noqa: S311
    counted = _Storm()
    async with served(bench, DEMO) as server:
        capacity = await throughput(lambda: server.written(next(requests)), _CALLERS, 10)

        async def call() -> None:
            began = time.perf_counter()
            try:
                await server.written(next(requests), timeout=deadline)
                counted.answered += 1
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    counted.late += 1
                    return
                counted.refused += 1
            counted.late += time.perf_counter() - began > deadline

        calls: set[asyncio.Task[None]] = set()
        caller_seconds = time.process_time()
        at, ends = time.perf_counter(), time.perf_counter() + seconds
        memory: list[int] = []
        while at < ends:
            at += draw.expovariate(times * capacity)
            await asyncio.sleep(max(at - time.perf_counter(), 0))
            task = asyncio.create_task(call())
            calls.add(task)
            task.add_done_callback(calls.discard)
            if len(memory) < (seconds - (ends - at)) / _LOOK_SECONDS:
                memory.append(server.anonymous_bytes())
        await asyncio.gather(*calls)
        caller_seconds = time.process_time() - caller_seconds
    goodput = counted.answered / seconds
    bench.add(
        f"{times:g} times the capacity for {seconds:.0f} s: answered in time, of the capacity",
        f"{goodput:.1f} calls/s of 16 = {goodput / capacity:.0%}; {counted.refused} refused",
        f"{capacity:.1f} calls/s without overload; the caller takes {caller_seconds / seconds / usable_cores():.0%} of "
        "the cores",
        Goal(90, None, " %", lower=False),
        100 * goodput / capacity,
    )
    bench.add(
        f"calls that were neither answered nor refused within their deadline of {deadline:g} s",
        f"{counted.late}",
        f"{counted.answered + counted.refused + counted.late} calls",
        Goal(0),
        counted.late,
    )
    third = len(memory) // 3
    middle, last = (statistics.median(part) / 1e6 for part in (memory[third : 2 * third], memory[-third:]))
    grown = last - middle
    bench.add(
        "the server's memory (RssAnon), last third of the time against the middle third, medians",
        f"{grown:+.0f} MB",
        f"{middle:.0f} MB; {min(memory) / 1e6:.0f} to {max(memory) / 1e6:.0f} MB at any time",
        Goal(50),
        grown,
    )


def hostile(bench: Bench, count: int = 2_000) -> None:
    """A storm of pictures that nobody means well, mixed with good ones."""
    seed = random.SystemRandom().randrange(2**32)
    with running_service("embedder_service", bench.work / "logs", "--log-level", "error") as service:
        outcome = weather(service.address, service.process.pid, seed, count)
        ended = service.process.poll() is not None
    bench.add(
        f"a storm of {count:,} pictures, seed {seed}: good ones not right, or bad ones not refused by name",
        f"{len(outcome.wrong)}{', and the service ended' * ended}",
        f"{outcome.embedded} embedded, {outcome.refused} refused",
        Goal(0),
        len(outcome.wrong) + ended,
    )
    grown = outcome.grown_bytes / 1e6
    bench.add("the server's memory (RssAnon), after the storm against before", f"{grown:+.0f} MB", "", Goal(100), grown)


def main(
    work: Annotated[Path, typer.Option(help="Folder for checkpoints of random weights (3.2 GB, kept) and logs.")],
    output: Annotated[Path | None, typer.Option(help="Markdown file to put the table into.")] = None,
    seconds: Annotated[float, typer.Option(help="Length of the overload.")] = 60.0,
    large: Annotated[bool, typer.Option(help="Measure so400m too (minutes).")] = True,
) -> None:
    """Measure all of it, print the table, and write it."""
    torch.set_num_threads(usable_cores())
    keep_freed_memory()  # as the service does
    bench = Bench(work)
    rate = asyncio.run(tower_limit(bench, BASE, FAMILIES[BASE].image_gflop, 25, 8))
    usual_loop(bench, rate)
    if large:
        asyncio.run(tower_limit(bench, LARGE, FAMILIES[LARGE].image_gflop, 60, 2))
    asyncio.run(texts(bench))
    asyncio.run(small_tower(bench))
    asyncio.run(overload(bench, seconds))
    hostile(bench)
    title = (
        f"The embedder over gRPC; {machine('torch')}; random weights of the published shapes, and the demo checkpoint"
    )
    report(bench.figures, title, output, "embedder")


if __name__ == "__main__":
    typer.run(main)
