"""``eyebright delete`` and ``eyebright stats``: what a collection holds.

Owns how the two print. Knows nothing of searching.
"""

import dataclasses
from typing import Annotated

import typer
from eyebright_client import CollectionStats, RecallEstimate
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eyebright_cli.connection import (
    DEFAULT_COLLECTION,
    DEFAULT_EMBEDDER,
    DEFAULT_INDEX,
    CollectionOption,
    EmbedderOption,
    IndexOption,
    JsonOption,
    TlsCaOption,
    TlsIdentityOption,
    TokenFileOption,
    open_client,
)
from eyebright_cli.presentation import make_console, plain, print_json
from eyebright_cli.where import WhereOption, parse_where

DELETE_EXAMPLES = """\b
eyebright delete holidays/beach.jpg holidays/dog.jpg
eyebright delete red-heart --collection emoji --json
eyebright delete --where group=food --yes
"""
STATS_EXAMPLES = """\b
eyebright stats
eyebright stats --collection holidays --json
"""

_ASKED = {"text": "captions", "image": "pictures", "record": "records"}


def delete(
    identifiers: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Ids of the pictures to forget.", show_default=False),
    ] = None,
    where: WhereOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --where: don't ask first.")] = False,
    as_json: JsonOption = False,
    collection: CollectionOption = DEFAULT_COLLECTION,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Forget pictures. The files stay where they are; an id that is not there is no fault."""
    parsed = parse_where(where)
    if bool(identifiers) == (parsed is not None):
        raise typer.BadParameter("give either ids or --where CONDITION", param_hint="ID...")
    if parsed is not None and not yes:
        typer.confirm(f"Forget all pictures of {collection} where {' and '.join(where or ())}?", abort=True, err=True)
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        deleted = client.delete(identifiers or None, filter=parsed)
    if as_json:
        asked = {"where": where} if parsed is not None else {"asked": len(identifiers or ())}
        print_json({"collection": collection, **asked, "deleted": deleted})
    else:
        of = "" if parsed is not None else f" of {len(identifiers or ()):,}"
        make_console().print(f"deleted {deleted:,}{of} from {plain(collection)}", markup=False)


def stats(
    as_json: JsonOption = False,
    collection: CollectionOption = DEFAULT_COLLECTION,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Say how many pictures a collection holds and how much room they take."""
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        found = client.stats()
    if as_json:
        values = dataclasses.asdict(found)
        values["collection"]["create_time"] = found.collection.create_time.isoformat()
        for estimate in values["recall"]:
            estimate["since"] = estimate["since"].isoformat()
        print_json(values)
    else:
        make_console().print(_stats_view(found))


def _stats_view(found: CollectionStats) -> RenderableType:
    collection = found.collection
    title = Text(f"{plain(collection.name)}: {found.record_count:,} pictures", "bold")
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for header in ("shard", "pictures", "tombstones", "on disk", "vectors in memory", "segments", "write batches"):
        table.add_column(header, justify="right")
    for number, shard in enumerate(found.shards):
        table.add_row(
            str(number),
            f"{shard.record_count:,}",
            f"{shard.tombstone_count:,}",
            _mebibytes(shard.disk_bytes),
            _mebibytes(shard.vector_bytes),
            str(shard.segment_count),
            f"{shard.applied_sequence:,}",
        )
    line = (
        f"{collection.dimension} dimensions · {collection.metric} · made {collection.create_time:%Y-%m-%d %H:%M} UTC · "
        f"fingerprint {collection.fingerprint}"
    )
    return Group(table, *(Text(recall_line(estimate)) for estimate in found.recall), Text(line, "dim"))


def recall_line(estimate: RecallEstimate) -> str:
    """How much of the exact answers one recipe finds for one modality, in a line."""
    queries = "query" if estimate.sample_count == 1 else "queries"
    return (
        f"recall@k of {_ASKED[estimate.modality]} {estimate.mean:.3f} ({estimate.lower:.3f}-{estimate.upper:.3f}, "
        f"{estimate.sample_count:,} sampled {queries}, {plain(estimate.recipe)})"
    )


def _mebibytes(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.1f} MiB"
