"""Settings of the index service.

Owns their names, units, ranges and defaults, and reading them from the environment and the command line. Nothing else
in the service reads either.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import CliApp, NoDecode, SettingsConfigDict, SettingsError

from index_service import fault_points
from index_service.snapshot_urls import parse_snapshot_url
from service_runtime.settings import ServiceSettings

__all__ = ["IndexSettings", "SettingsError", "read_settings"]


class IndexSettings(ServiceSettings):
    """Keeps vectors in sharded collections and finds the nearest.

    Each option can also be given as an environment variable: --data-folder is EYEBRIGHT_INDEX_DATA_FOLDER.
    The least that works: python -m index_service --data-folder ./index-data
    """

    model_config = SettingsConfigDict(env_prefix="EYEBRIGHT_INDEX_", cli_prog_name="python -m index_service")

    port: int = Field(7002, ge=0, le=65_535)
    """TCP port for gRPC, 0 to 65,535; 0 takes a free one and says which."""

    metrics_port: int = Field(9102, ge=0, le=65_535)
    """TCP port for /metrics, /livez and /readyz, 0 to 65,535; 0 takes a free one and says which."""

    data_folder: Path
    """Folder that holds the collections; made when it is missing. One process at a time may hold it."""

    default_shard_count: int = Field(4, ge=1, le=256)
    """Shards of a collection whose creator names no number, 1 to 256. More shards use more cores for one search."""

    seal_rows: int = Field(16_384, ge=256, le=1_048_576)
    """Vectors of a shard kept in memory before they are put into a segment on disk, 256 to 1,048,576. A vector in
    memory takes 2 bytes a dimension and is always compared exactly."""

    index_from_rows: int = Field(50_000, ge=1_000, le=10_000_000)
    """Vectors from which a segment gets the collection's index, 1,000 to 10,000,000. Smaller ones are searched exactly,
    or, from 4,096 vectors on, by the same codes without cells."""

    search_threads: int = Field(0, ge=0, le=1024)
    """Shards searched side by side, 0 to 1,024; 0 means one per core this process may use."""

    request_threads: int = Field(16, ge=1, le=1024)
    """Requests worked on side by side, 1 to 1,024; others wait. Writes that wait together share a commit."""

    recall_probe_share: float = Field(0.01, ge=0, le=1)
    """Share of live queries that are answered again exactly in the background, to know the recall of approximate
    answers, 0 to 1; 0 turns it off."""

    recall_probe_cpu_share: float = Field(0.05, gt=0, le=1)
    """Most of one core that may be spent on that, above 0 to 1. Sampled queries past it are dropped and counted."""

    recorded_queries: int = Field(512, ge=0, le=65_536)
    """Recent queries that each collection keeps as vectors, in memory and in its folder, captions and images apart, to
    be tuned on, 0 to 65,536; 0 keeps none and removes those kept before."""

    snapshot_urls: Annotated[tuple[str, ...], NoDecode] = ()
    """Places in which snapshots may be made and from which they may be restored: folders ("/backups") or URLs that
    fsspec knows ("s3://bucket/eyebright"; the store's own library reads its credentials), several with commas between
    them, or as a JSON array. None by default: then both are refused. Whoever can write to such a place can change what
    a restore loads, so name none that strangers can."""

    fault_point: str = ""
    """For tests of this service alone, never where data matters: where it is to die or to find its disk failing, as
    "seal.before_rename:3:kill" says (see fault_points.py)."""

    @field_validator("fault_point")
    @classmethod
    def _check_fault_point(cls, armed: str) -> str:
        if armed:
            fault_points.parse(armed)
        return armed

    @field_validator("snapshot_urls", mode="before")
    @classmethod
    def _split_snapshot_urls(cls, urls: object) -> object:
        if not isinstance(urls, str):
            return urls
        return json.loads(urls) if urls.startswith("[") else [url.strip() for url in urls.split(",") if url.strip()]

    @field_validator("snapshot_urls")
    @classmethod
    def _check_snapshot_urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parse_snapshot_url(url)
        return urls


def read_settings(arguments: Sequence[str]) -> IndexSettings:
    """The settings from a command line and the environment; the command line wins.

    Raises SettingsError with one line that names every setting at fault. ``--help`` prints and exits with status 0.
    """
    try:
        return CliApp.run(IndexSettings, cli_args=list(arguments))
    except ValidationError as error:
        raise SettingsError("; ".join(_fault(details) for details in error.errors())) from error


def _fault(details: object) -> str:
    assert isinstance(details, dict)
    name = ".".join(str(part) for part in details["loc"]).replace("_", "-")
    message = str(details["msg"]).removeprefix("Value error, ")
    if details["type"] == "missing":
        return f"--{name} is required"
    return f"--{name}: {message}, not {details['input']!r}" if name else message
