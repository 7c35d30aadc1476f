"""Shows a cluster's status to a person."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from hack.cluster.status import Status


def show(status: Status) -> None:
    """Print `status` on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"The cluster is [bold]{status.state}[/].")
    if status.kubeconfig:
        console.print(f"export KUBECONFIG={status.kubeconfig}")
    memory = dict(sorted(status.memory_bytes.items(), key=lambda item: -item[1]))
    total = {"all": sum(memory.values())} if memory else {}
    for title, rows in {
        "memory": {name: f"{size / 2**20:.0f} MiB" for name, size in (memory | total).items()},
        "nodes": status.nodes,
        "images": status.images,
        "versions": status.versions,
    }.items():
        if rows:
            console.print(_table(title, rows))


def _table(title: str, rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=10, style="dim")
    table.add_column()
    table.add_column(justify="right")
    for number, (name, value) in enumerate(rows.items()):
        table.add_row("" if number else title, name, value)
    return table
