"""The command line: `python -m hack.cluster --help`."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import click

from hack import cache
from hack.cluster import build as programs
from hack.cluster import containerd, host, layout, lifecycle, report
from hack.cluster import fake_nodes as nodes
from hack.cluster import status as cluster_status
from hack.cluster.apiserver import api_server
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
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(cluster: Layout, *, as_json: bool) -> None:
    """Tell what runs: components with their memory, nodes, versions, images."""
    told = cluster_status.status(cluster)
    if as_json:
        click.echo(json.dumps(told.to_dict(), indent=1))
    else:
        report.show(told)


@main.command()
@click.argument("count", type=click.IntRange(min=0))
@click.option("--gpus", default=8, show_default=True, help="GPUs of each node.")
@click.option("--product", default="NVIDIA-H100-80GB-HBM3", show_default=True, help="Their kind.")
@click.pass_obj
def fake_nodes(cluster: Layout, count: int, gpus: int, product: str) -> None:
    """Have COUNT simulated GPU nodes, 0 for none: pods become Ready there but run nowhere."""
    nodes.set_nodes(cluster, count, nodes.Kind.of(product, gpus=gpus))


@main.command()
@click.option(
    "--state",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for keys, data and logs.",
)
@click.option("--port", type=int, help="A free one by default.")
def apiserver(state: Path, port: int | None) -> None:
    """Run etcd and an API server alone, until interrupted; needs no root."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Jobs in a shell's background inherit an interrupt that is ignored.
        signal.signal(number, signal.default_int_handler)
    state.mkdir(parents=True, exist_ok=True)
    with api_server(state.absolute(), port=port) as kubeconfig:
        console.print(f"export KUBECONFIG={kubeconfig}", soft_wrap=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


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


if __name__ == "__main__":
    main()
