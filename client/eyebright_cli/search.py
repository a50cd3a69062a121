"""``eyebright search`` and ``eyebright like``: pictures for words, for a picture, or for a record.

Owns how the query is given; ``presentation`` shows the answer.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from eyebright_client import SearchResult

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
from eyebright_cli.presentation import make_console, print_json, result_object, result_view
from eyebright_cli.where import WhereOption, parse_where

SEARCH_EXAMPLES = """\b
eyebright search "a dog on a beach"
eyebright search red heart -k 3
eyebright search --image snapshot.jpg
eyebright search "a slice of cake" --where group=food --where "camera.iso>=800"
eyebright search "a birthday cake" --json | jq -r ".hits[].id"
"""
LIKE_EXAMPLES = """\b
eyebright like holidays/beach.jpg
eyebright like red-heart -k 20 --json
"""

HitsOption = Annotated[
    int,
    typer.Option(
        "-k", min=1, max=100_000, metavar="N", help="Most pictures to find; past 1,000 they come without captions."
    ),
]


def search(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="WORDS", help="What the picture shows.", show_default=False)
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, readable=True, metavar="FILE", help="Find pictures like this file's."
        ),
    ] = None,
    k: HitsOption = 10,
    where: WhereOption = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out pictures with a lower score.")] = None,
    as_json: JsonOption = False,
    collection: CollectionOption = DEFAULT_COLLECTION,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Find pictures by words or by a picture."""
    if bool(words) == (image is not None):
        raise typer.BadParameter("give either WORDS or --image FILE", param_hint="WORDS")
    text = " ".join(words) if words else None
    parsed = parse_where(where)
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        result = client.search(text, image=image, k=k, filter=parsed, min_score=min_score)
    _show(
        f"pictures like {image}" if text is None else f"“{text}”",
        {"image": str(image)} if text is None else {"text": text},
        result,
        as_json,
    )


def like(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="Id of a picture in the collection.")],
    k: HitsOption = 10,
    where: WhereOption = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out pictures with a lower score.")] = None,
    as_json: JsonOption = False,
    collection: CollectionOption = DEFAULT_COLLECTION,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: IndexOption = DEFAULT_INDEX,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Find pictures like one that is indexed."""
    parsed = parse_where(where)
    with open_client(embedder, index, collection, token_file, tls_ca, tls_identity) as client:
        result = client.search(like=identifier, k=k, filter=parsed, min_score=min_score)
    _show(f"like {identifier}", {"like": identifier}, result, as_json)


def _show(title: str, query: dict[str, Any], result: SearchResult, as_json: bool) -> None:
    if as_json:
        print_json(result_object(query, result))
    else:
        make_console().print(result_view(title, result))
