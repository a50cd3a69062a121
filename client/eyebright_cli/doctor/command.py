"""The ``doctor`` command: what is examined, and how the findings are shown.

Owns the options, the order, the table and the exit code. ``embedder_checks`` and ``index_checks`` hold the checks.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from eyebright_client import Client, EyebrightError, Model, Unavailable
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from eyebright_cli.connection import (
    DEFAULT_EMBEDDER,
    DEFAULT_INDEX,
    EmbedderOption,
    JsonOption,
    TlsCaOption,
    TlsIdentityOption,
    TokenFileOption,
    open_client,
)
from eyebright_cli.doctor.embedder_checks import EMBEDDER_CHECKS
from eyebright_cli.doctor.examination import Finding, Outcome, Subject, examine
from eyebright_cli.doctor.golden import Golden, bundled_golden, read_golden, write_golden
from eyebright_cli.doctor.index_checks import INDEX_CHECKS
from eyebright_cli.errors import CliError
from eyebright_cli.presentation import make_console, plain, print_json

EXAMPLES = """\b
eyebright doctor
eyebright doctor --embedder gpu-box:7001 --index localhost:7002 --collection images
eyebright doctor --record golden.json     (on an embedder that you trust)
eyebright doctor --golden golden.json     (on another one, or after an upgrade)
eyebright doctor --json | jq ".checks[] | select(.outcome == \\"failed\\")"
"""

_MARKS: dict[Outcome, tuple[str, str]] = {
    "ok": ("ok", "green"),
    "failed": ("FAILED", "bold red"),
    "skipped": ("skipped", "dim"),
}


def doctor(
    golden: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Golden vectors to hold the embedder's against; those of the demo checkpoint are built in.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, metavar="FILE", help="When all is well, write the embedder's vectors as golden ones."
        ),
    ] = None,
    collection: Annotated[
        str | None,
        typer.Option("--collection", "-c", metavar="NAME", help="The only collection of the index to be judged."),
    ] = None,
    as_json: JsonOption = False,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
    index: Annotated[
        str | None,
        typer.Option(
            "--index",
            envvar="EYEBRIGHT_INDEX",
            metavar="HOST:PORT",
            help="Examine the index service that listens there, too.",
            rich_help_panel="Connection",
        ),
    ] = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_identity: TlsIdentityOption = None,
) -> None:
    """Examine a running embedder: whether its vectors are the right ones, whatever it is asked along with.

    It embeds a few captions and pictures of its own, some on purpose awkward: a short caption beside a long one, one
    picture in two formats, turned by EXIF, transparent, or no picture at all. Each check says what it found with its
    figures, and, when it failed, what that likely means. Nothing is written to either service. Takes seconds, on a
    large model without a GPU minutes. Exit code 0 when no check failed, else 1.
    """
    if collection is not None and index is None:
        raise typer.BadParameter("needs --index", param_hint="--collection")
    given = None if golden is None else read_golden(golden)
    with open_client(embedder, index or DEFAULT_INDEX, "", token_file, tls_ca, tls_identity) as client:
        model, findings = _examined(client, given, collection, with_index=index is not None, show=not as_json)
        well = all(finding.outcome != "failed" for finding in findings)
        if as_json:
            print_json(_object(embedder, index, model, findings, well=well))
        else:
            make_console().print(_view(embedder, model, findings))
        if record is not None:
            if model is None or not well:
                raise CliError(f"{record} is not written: a check failed")
            _record(client, model, record)
    if not well:
        raise typer.Exit(1)


def _examined(
    client: Client, given: Golden | None, collection: str | None, *, with_index: bool, show: bool
) -> tuple[Model | None, list[Finding]]:
    """The model, None when the embedder can't be asked, and what was found."""
    try:
        model = client.model()
    except EyebrightError as error:
        return None, [_unreachable(error)]
    subject = Subject(client, model, given or _bundled(model), collection)
    checks = EMBEDDER_CHECKS + (INDEX_CHECKS if with_index else ())
    findings = []
    with make_console(stderr=True).status("examining") as status:
        for check in checks:
            if show:
                status.update(f"examining: {check.name}")
            findings.append(examine(check, subject))
    return model, findings


def _bundled(model: Model) -> Golden | None:
    """The golden vectors that are built in, where they are of this model."""
    golden = bundled_golden()
    return golden if golden.fingerprint == model.fingerprint else None


def _unreachable(error: EyebrightError) -> Finding:
    meaning = (
        "Nothing listens there, or a network policy or TLS stands between"
        if isinstance(error, Unavailable)
        else "Something else listens there, or does not let this caller in"
    )
    return Finding("reachable", "failed", str(error), meaning)


def _record(client: Client, model: Model, path: Path) -> None:
    """Write the embedder's own vectors of the golden items that are built in."""
    items = bundled_golden()
    captions = items.captions if "text" in model.towers else ()
    pictures = items.pictures if "image" in model.towers else ()
    none = np.zeros((0, model.dimension), np.float32)
    golden = Golden(
        model.fingerprint,
        captions,
        client.embed_texts(list(captions), recompute=True).vectors if captions else none,
        pictures,
        client.embed_images([data for _, data in pictures]).vectors if pictures else none,
    )
    write_golden(
        path, golden, f"eyebright doctor --record, of {model.name} in {model.precision or 'unknown precision'}"
    )
    make_console(stderr=True).print(Text(f"{path}: {len(captions)} captions and {len(pictures)} pictures"))


def _view(address: str, model: Model | None, findings: list[Finding]) -> RenderableType:
    return Group(_table(address, model, findings), *_meanings(findings), _verdict(findings))


def _table(address: str, model: Model | None, findings: list[Finding]) -> Table:
    title = plain(address)
    if model is not None:
        stated = (model.name, model.revision, model.precision, " and ".join(model.towers))
        title = f"{title}: {plain(', '.join(filter(None, stated)))}"
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, header_style="dim", pad_edge=False)
    for header in ("", "check", "found"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.outcome]
        table.add_row(Text(mark, style), finding.check, Text(plain(finding.said)))
    return table


def _meanings(findings: list[Finding]) -> Iterator[Text]:
    for finding in findings:
        if finding.meaning:
            yield Text.assemble((f"{finding.check}: ", "bold"), f"{finding.meaning}.")


def _verdict(findings: list[Finding]) -> Text:
    counts = {outcome: sum(finding.outcome == outcome for finding in findings) for outcome in _MARKS}
    said = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    return Text(said, "red" if counts["failed"] else "green")


def _object(
    embedder: str, index: str | None, model: Model | None, findings: list[Finding], *, well: bool
) -> dict[str, object]:
    return {
        "embedder": embedder,
        "index": index,
        "ok": well,
        "model": None if model is None else dataclasses.asdict(model),
        "checks": [dataclasses.asdict(finding) for finding in findings],
    }
