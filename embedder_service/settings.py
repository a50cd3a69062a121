"""The settings of the embedder service.

Owns their names, units, ranges and defaults. Knows nothing of what they configure.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service_runtime.settings import ServiceSettings

_MAX_BATCH = 4096


class EmbedderSettings(ServiceSettings):
    """
    Turn captions and images into vectors with a SigLIP checkpoint, over gRPC.

    Every option can also be given by the environment: --max-items is EYEBRIGHT_EMBEDDER_MAX_ITEMS.
    Try: python -m embedder_service                           (the bundled demo checkpoint)
    or:  python -m embedder_service --model /models/siglip2   (a folder in Hugging Face's layout)
    """

    model_config = SettingsConfigDict(env_prefix="EYEBRIGHT_EMBEDDER_", cli_prog_name="python -m embedder_service")

    port: int = Field(7001, ge=0, le=65_535)
    """TCP port for gRPC, 0 to 65,535; 0 takes a free one and says which."""

    metrics_port: int = Field(9101, ge=0, le=65_535)
    """TCP port for /metrics, /livez and /readyz, 0 to 65,535; 0 takes a free one and says which."""

    model: str = Field("demo", min_length=1)
    """What to serve: "demo" (the bundled checkpoint), a folder that holds a SigLIP checkpoint, or an OWNER/NAME of the
    Hugging Face hub. Fixed-resolution SigLIP and SigLIP 2 are served."""

    revision: str | None = None
    """Commit, tag or branch of a hub model; None takes its main branch. Name a commit, so that the vector space
    can't change."""

    towers: Literal["both", "text", "image"] = "both"
    """Which towers are loaded: both, text or image. One alone takes the memory of one; what needs the other is
    refused. The fingerprint is the same."""

    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto"
    """What the towers compute in: fp32, bf16, fp16 or int8. auto takes bf16 on a CPU that multiplies in it (AVX512_BF16
    or AMX) unless the towers are too small to gain, bf16 or else fp16 on a GPU, fp32 anywhere else. int8 is for CPUs
    that multiply bytes (VNNI, AMX): the quickest there, and the furthest from fp32."""

    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    """Where the towers run: cpu, cuda or cuda:N."""

    batch_limit: int = Field(32, ge=1, le=_MAX_BATCH)
    """Most items of one forward pass, 1 to 4,096. Fewer are taken where larger batches measure no better, or don't fit
    into memory."""

    warm_up_sizes: Annotated[tuple[int, ...], NoDecode] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    """Batch sizes whose passes are measured at the start, joined by commas, each 1 to 4,096; those past batch_limit are
    left out. Of those with 97 % of the best throughput the largest whose pass takes up to 25 ms becomes the limit, or
    else the smallest."""

    warm_up_seconds: float = Field(4.0, ge=0.0, le=600.0)
    """Most seconds for these measurements, by tower, 0 to 600; the smallest size is measured in any case."""

    bulk_share: float = Field(0.2, ge=0.0, lt=1.0)
    """Share of the device that bulk items get while interactive ones wait too, 0 to less than 1; with 0 they wait until
    nobody else does."""

    queue_limit: int = Field(2048, ge=2, le=1_000_000)
    """Most items of a tower taken in and not yet answered, at least twice max_items, to 1,000,000. Half is for unary
    interactive calls, which get RESOURCE_EXHAUSTED past it, half for bulk ones and for streams, which wait."""

    queue_bytes: int = Field(512 * 1024 * 1024, ge=2 * 1024 * 1024, le=1024**4)
    """Most bytes that these items hold, encoded and decoded, by tower, at least twice max_message_bytes, to 1 TiB;
    shared and enforced like queue_limit."""

    text_cache_bytes: int = Field(64 * 1024 * 1024, ge=0, le=1024**4)
    """Memory for the vectors of captions embedded before, in bytes, to 1 TiB; 0 keeps none. A caption takes about 4 KB
    with 768 dimensions."""

    stream_window: int = Field(4, ge=1, le=64)
    """Most batches of one stream in flight, 1 to 64. More are read only when an answer has been sent."""

    max_items: int = Field(256, ge=1, le=4096)
    """Most items in one request, 1 to 4,096."""

    max_image_bytes: int = Field(20 * 1024 * 1024, ge=1, le=1024 * 1024 * 1024)
    """Largest encoded image, in bytes, 1 to 1 GiB. max_message_bytes bounds the images of one request together."""

    max_image_pixels: int = Field(64_000_000, ge=1, le=1_000_000_000)
    """Largest image once decoded, in pixels, 1 to 1,000,000,000. Decoding takes up to 16 bytes a pixel; twice as
    many pixels are decoded at a time, by however many threads."""

    accept_pixels: bool = False
    """Whether callers may send pictures that are decoded already. What they send is embedded as it is: for callers that
    are trusted to turn, flatten and resize as this service does."""

    max_text_bytes: int = Field(32 * 1024, ge=1, le=1024 * 1024)
    """Largest caption, in bytes of UTF-8, 1 to 1 MiB."""

    torch_threads: int = Field(0, ge=0, le=1024)
    """Threads of the forward passes on the CPU, 1 to 1,024; 0 takes the cores this process may use. Passes side by side
    share them, at least one each; a pass that begins while no other is under way takes them all."""

    workers: int = Field(0, ge=0, le=64)
    """Forward passes under way, 1 to 64. On a CPU they run side by side; 0 takes several where one of a single item is
    over within 10 ms, as with small models, and else one. A GPU computes one after another; 0 is 2 there, so that the
    next is brought to it meanwhile."""

    decode_threads: int = Field(0, ge=0, le=1024)
    """Images decoded at a time, 1 to 1,024; 0 takes one for each core this process may use."""

    canary_seconds: float = Field(30.0, gt=0.0, le=3600.0)
    """How often one caption and one picture are embedded again and compared with their golden vectors, in seconds, up
    to 3,600. While they differ, fail, or the device finishes no pass for half of stall_seconds, the service is not
    ready."""

    @field_validator("warm_up_sizes", mode="before")
    @classmethod
    def _split_sizes(cls, sizes: object) -> object:
        return sizes.split(",") if isinstance(sizes, str) else sizes

    @field_validator("warm_up_sizes")
    @classmethod
    def _check_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes or not all(1 <= size <= _MAX_BATCH for size in sizes):
            raise ValueError(f"expected sizes of 1 to {_MAX_BATCH} joined by commas, not {','.join(map(str, sizes))!r}")
        return tuple(sorted(set(sizes)))

    @model_validator(mode="after")
    def _check_queue(self) -> Self:
        if self.queue_limit < 2 * self.max_items:
            raise ValueError(
                f"queue_limit is {self.queue_limit}; expected at least {2 * self.max_items}, twice max_items, "
                "so that one request finds room beside the streams"
            )
        if self.queue_bytes < 2 * self.max_message_bytes:
            raise ValueError(
                f"queue_bytes is {self.queue_bytes}; expected at least {2 * self.max_message_bytes}, twice "
                "max_message_bytes, so that one request finds room beside the streams"
            )
        return self


class _CheckpointSettings(BaseSettings):
    """What the commands read that work on a checkpoint without serving it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        env_prefix="EYEBRIGHT_EMBEDDER_",
    )

    model: str = Field("demo", min_length=1)
    """As for the service: "demo", a folder that holds a SigLIP checkpoint, or an OWNER/NAME of the Hugging Face hub."""

    revision: str | None = None
    """Commit, tag or branch of a hub model; None takes its main branch."""


class CheckSettings(_CheckpointSettings):
    """
    Check a checkpoint without serving it: token ids, pixels and vectors against transformers' own, golden vectors.

    Prints a line for each check; the exit status is 0 when all are well, 1 when one failed.
    Try: python -m embedder_service check --model /models/siglip2
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m embedder_service check")

    recall: Path | None = None
    """File of pairs, .parquet or .jsonl with the columns caption and image (a path relative to it, or bytes): make the
    usual mistakes on them and say what each costs, instead of the other checks. With a column text_vector or
    image_vector, made elsewhere by the same checkpoint, say which mistake it looks like."""

    pairs: int = Field(200, ge=2, le=100_000)
    """Most pairs of that file to embed, spread evenly over it, 2 to 100,000."""


class GoldenSettings(_CheckpointSettings):
    """
    Write golden vectors: what a few captions and pictures become under a checkpoint, in float32 on the CPU.

    As golden.json beside the weights they are what a served model's canary is held against, at whatever precision;
    `eyebright doctor --golden FILE` holds a running server against them.
    Try: python -m embedder_service golden --model /models/siglip2
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m embedder_service golden")

    output: Path | None = None
    """File to write; None writes golden.json into the checkpoint's folder."""
