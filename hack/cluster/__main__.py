"""The command line: `python -m hack.cluster --help`."""

import os
from pathlib import Path

import click

from hack import cache
from hack.cluster import build as programs
from hack.cluster import containerd, host, layout, lifecycle
from hack.cluster.layout import Layout
from hack.progress import console

PASS_ON = {
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
    "help_option_names": [],
}


@click.group()
@click.pass_context
def main(context: click.Context) -> None:
    """A real single-node Kubernetes on this machine, built from its public Go modules.

    Everything lies below $KVARN_CACHE (~/.cache/kvarn). Needs root.
    """
    context.obj = Layout(cache.default())


@main.command()
@click.option(
    "--port",
    default=layout.DEFAULT_PORT,
    envvar="KVARN_CLUSTER_PORT",
    show_default=True,
    show_envvar=True,
    help="Where on 127.0.0.1 the API server is reached.",
)
@click.pass_obj
def up(cluster: Layout, port: int) -> None:
    """Start the cluster; nothing to do if it is up and healthy."""
    lifecycle.up(cluster, port=port)


@main.command()
@click.pass_obj
def down(cluster: Layout) -> None:
    """Stop the cluster. Images and programs stay cached."""
    if not lifecycle.down(cluster):
        console.print("The cluster is down already.")


@main.command()
@click.pass_obj
def build(cluster: Layout) -> None:
    """Compile the cluster's programs, unless they are compiled already."""
    for program in vars(programs.programs(cluster.cache)).values():
        console.print(f"{program}  {program.stat().st_size / 1e6:.0f} MB")


@main.command()
@click.argument("archives", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.pass_obj
def load(cluster: Layout, archives: tuple[Path, ...]) -> None:
    """Import image ARCHIVES that the cluster does not hold yet."""
    imported = containerd.load(cluster, archives)
    console.print(f"{len(imported)} of {len(archives)} imported, the others were there.")


@main.command(context_settings=PASS_ON)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def run(cluster: Layout, command: tuple[str, ...]) -> None:
    """Run COMMAND in the node's network: Services and pods are reached by address and by name."""
    _replace(host.inside(cluster, *command))


@main.command(context_settings=PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def kubectl(cluster: Layout, arguments: tuple[str, ...]) -> None:
    """Run the cluster's own kubectl as its administrator."""
    _replace(host.kubectl(cluster, *arguments))


def _replace(command: list[str]) -> None:
    os.execvp(command[0], command)  # noqa: S606


main()
