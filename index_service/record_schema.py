"""The tables of a record store: made, brought up from those of earlier releases, and checked before they are used.

Owns their form and what a store says of itself. SQLite notices most damage to its own structure and none to what is
inside; so every row carries a checksum of it, and the state one of all ids.
"""

import sqlite3
from dataclasses import dataclass

from index_service.record_checksums import ascend, ids_checksum, state_checksum

_APPLICATION_ID = 0x45594542  # "EYEB"
_VERSION = 2
_WITHOUT_CHECKSUMS = 1
_TABLES = (
    "CREATE TABLE state (dimension INTEGER NOT NULL, applied_sequence INTEGER NOT NULL, next_row INTEGER NOT NULL)",
    "CREATE TABLE records ("
    "row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, caption TEXT, source_uri TEXT, metadata_json BLOB)",
    "CREATE TABLE vectors (row INTEGER PRIMARY KEY, vector BLOB NOT NULL)",
)
_CHECKSUMS = (
    "ALTER TABLE records ADD COLUMN checksum INTEGER",  # NULL in rows of releases that had none
    "ALTER TABLE vectors ADD COLUMN checksum INTEGER",
    "ALTER TABLE state ADD COLUMN ids_checksum INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE state ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0",
)
_COLUMNS = """
SELECT m.name, c.name, c.type, c."notnull", c.pk FROM sqlite_schema m, pragma_table_info(m.name) c ORDER BY 1, c.cid
"""
_IDS_CHUNK = 16_384


class SchemaError(Exception):
    """The tables are not as this service wrote them; the message says what is wrong, without the file's name."""


@dataclass(frozen=True, slots=True)
class State:
    """What a store says of itself."""

    dimension: int
    applied_sequence: int
    next_row: int
    ids_checksum: int


def make(connection: sqlite3.Connection, dimension: int) -> None:
    """Make the tables in an empty file."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN")
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    _make_tables(connection)
    connection.execute("INSERT INTO state VALUES (?, 0, 1, 0, 0)", (dimension,))
    write_state(connection, State(dimension, 0, 1, 0))
    connection.execute("COMMIT")


def check(connection: sqlite3.Connection, dimension: int) -> None:
    """Raise SchemaError unless the tables are this service's and of this dimension; those of 0.1.0 become it."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != _APPLICATION_ID:
        raise SchemaError(f"expected application id {_APPLICATION_ID:#x}, not {application:#x}; it is no record store")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (_WITHOUT_CHECKSUMS, _VERSION):
        raise SchemaError(f"expected schema version {_VERSION}, not {version}")
    _check_dimension(connection, dimension)
    if version == _WITHOUT_CHECKSUMS:
        _upgrade(connection)
    _check_tables(connection)
    read_state(connection)


def read_state(connection: sqlite3.Connection) -> State:
    """What the store says of itself. Raises SchemaError when it is not as it was written."""
    rows = connection.execute("SELECT * FROM state").fetchall()
    if len(rows) != 1 or state_checksum(*rows[0][:4]) != rows[0][4]:
        raise SchemaError(f"its state is not as it was written: {rows}")
    return State(*rows[0][:4])


def write_state(connection: sqlite3.Connection, state: State) -> None:
    """Say of the store what is true from this transaction on."""
    values = (state.dimension, state.applied_sequence, state.next_row, state.ids_checksum)
    connection.execute(
        "UPDATE state SET dimension = ?, applied_sequence = ?, next_row = ?, ids_checksum = ?, checksum = ?",
        (*values, state_checksum(*values)),
    )


def read_rows(connection: sqlite3.Connection) -> tuple[list[int], int]:
    """The rows of all records in no order, and the checksum of their ids. Raises SchemaError where ids are disordered,
    so that looking one up could miss it.
    """
    # The index of ids is a fraction of either table, and holds every record's row.
    found = connection.execute("SELECT row, id FROM records INDEXED BY sqlite_autoindex_records_1 ORDER BY id")
    rows: list[int] = []
    checksum, last = 0, ""
    while chunk := found.fetchmany(_IDS_CHUNK):
        numbers, ids = zip(*chunk, strict=True)
        try:
            ordered = ascend([last, *ids])
            checksum += ids_checksum(numbers, ids)
        except TypeError:
            ordered = False
        if not ordered:
            raise SchemaError("its index of ids is out of order")
        rows += numbers
        last = ids[-1]
    return rows, checksum


def _make_tables(connection: sqlite3.Connection) -> None:
    for statement in (*_TABLES, *_CHECKSUMS, f"PRAGMA user_version = {_VERSION}"):
        connection.execute(statement)


def _upgrade(connection: sqlite3.Connection) -> None:
    """Give tables of version 1 room for checksums. What they hold is taken as it is; new rows are covered."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _CHECKSUMS:
            connection.execute(statement)
        _, checksum = read_rows(connection)
        query = "SELECT dimension, applied_sequence, next_row FROM state"
        dimension, applied_sequence, next_row = connection.execute(query).fetchone()
        write_state(connection, State(dimension, applied_sequence, next_row, checksum))
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _check_dimension(connection: sqlite3.Connection, dimension: int) -> None:
    dimensions = [row[0] for row in connection.execute("SELECT dimension FROM state")]
    if dimensions != [dimension]:
        raise SchemaError(f"expected {dimension} dimensions, not {dimensions}")


def _check_tables(connection: sqlite3.Connection) -> None:
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    try:
        _make_tables(fresh)
        expected = fresh.execute(_COLUMNS).fetchall()
    finally:
        fresh.close()
    found = connection.execute(_COLUMNS).fetchall()
    if found != expected:
        raise SchemaError(f"expected columns {expected}, not {found}")
    for pragma, value in (("encoding", "UTF-8"), ("auto_vacuum", 0)):
        (other,) = connection.execute(f"PRAGMA {pragma}").fetchone()
        if other != value:
            raise SchemaError(f"expected {pragma} {value}, not {other}")
