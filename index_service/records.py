"""Records and the writes that change them.

Owns the shapes that pass between the servicer and the shards. Knows no protobuf and no storage.
"""

from dataclasses import dataclass

import numpy as np

from service_runtime.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Record:
    """Everything known of one picture but its vector. None where a part is absent."""

    id: str
    caption: str | None = None
    source_uri: str | None = None
    metadata_json: bytes | None = None


@dataclass(frozen=True, slots=True)
class RecordUpdate:
    """What to change of one record: None leaves a part as it is, empty removes it."""

    id: str
    caption: str | None = None
    source_uri: str | None = None
    metadata_json: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it was read; ``vector`` is (dimension,) float16, or None where it was not asked for."""

    record: Record
    vector: np.ndarray | None


@dataclass(frozen=True, slots=True)
class Include:
    """Which parts of a record an answer carries besides its id."""

    caption: bool = False
    source_uri: bool = False
    metadata: bool = False
    vector: bool = False

    @property
    def text(self) -> bool:
        """Whether anything is asked for that only the store knows."""
        return self.caption or self.source_uri or self.metadata

    @property
    def anything(self) -> bool:
        """Whether anything is asked for at all."""
        return self.text or self.vector


@dataclass(frozen=True, slots=True)
class Upsert:
    """Write whole records; ``vectors`` is (n, dimension) float16, prepared for their space. Ids are distinct."""

    records: list[Record]
    vectors: np.ndarray


@dataclass(frozen=True, slots=True)
class Update:
    """Change parts of records that exist: each gets a new row, as if it were written again. Ids are distinct."""

    updates: list[RecordUpdate]


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove records. Ids are distinct."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class DeleteRows:
    """Remove records by the numbers of their rows, which no other record ever had or will have: those that were written
    or changed since lie elsewhere, and stay.
    """

    rows: list[int]


Write = Upsert | Update | Delete | DeleteRows
"""What a shard applies, whole or not at all."""

Fault = ServiceError | None
"""What became of one item: None when it was done, else why not."""
