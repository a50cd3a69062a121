"""``eyebright serve``: both services in the foreground, until Ctrl-C.

Owns what is said while they run; ``local_services`` runs them.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from eyebright_cli.local_services import LocalPorts, LocalService, LocalServices
from eyebright_cli.presentation import make_console

EXAMPLES = """\b
eyebright serve
eyebright serve --data ~/pictures-index --model google/siglip2-base-patch16-256
"""

Port = typer.Option(min=0, max=65_535, metavar="PORT", rich_help_panel="Ports, 0 takes a free one")


def serve(
    data: Annotated[
        Path, typer.Option("--data", file_okay=False, metavar="FOLDER", help="Where everything is kept; created.")
    ] = Path("eyebright-data"),
    model: Annotated[
        str,
        typer.Option(
            "--model", help='"demo", a folder with a SigLIP checkpoint, or an OWNER/NAME of the Hugging Face hub.'
        ),
    ] = "demo",
    embedder_port: Annotated[int, Port] = 7001,
    index_port: Annotated[int, Port] = 7002,
    embedder_metrics_port: Annotated[int, Port] = 9101,
    index_metrics_port: Annotated[int, Port] = 9102,
) -> None:
    """Run both services on this machine, for this machine only, until Ctrl-C.

    Vectors, captions and logs stay in one folder; starting again with it goes on where it ended.
    """
    console = make_console()
    ports = LocalPorts(embedder_port, embedder_metrics_port, index_port, index_metrics_port)
    status = make_console(stderr=True).status("starting")

    def waiting(name: str) -> None:
        status.update(f"starting the {name} service")

    try:
        with status, LocalServices(data, model=model, ports=ports, waiting=waiting) as services:
            status.stop()
            console.print(_addresses(services))
            console.print(Text("ready; Ctrl-C stops both. Next: eyebright index PATH", "green"))
            try:
                services.watch()
            except KeyboardInterrupt:
                console.print("stopping both services")
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    console.print("stopped")


def _addresses(services: LocalServices) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for header in ("service", "address", "metrics", "log"):
        table.add_column(header, overflow="fold")

    def add(service: LocalService) -> None:
        table.add_row(service.name, service.address, service.metrics_url, str(service.log))

    add(services.embedder)
    add(services.index)
    return table
