"""The command line: `python -m hack.images --help`."""

from collections.abc import Sequence

import click

from hack import cache
from hack.cluster import containerd
from hack.cluster.layout import Layout
from hack.images import build as images


@click.group()
def main() -> None:
    """Container images, built with buildah: no Docker and no registry needed.

    Archives lie in $KVARN_CACHE/images (~/.cache/kvarn/images).
    """


@main.command()
@click.argument("titles", nargs=-1, type=click.Choice(sorted(images.IMAGES)), metavar="[IMAGE]...")
@click.option("--load", is_flag=True, help="Import them into the local cluster.")
@click.option("--base", metavar="REF", help="Start from this image instead of one made here.")
def build(titles: Sequence[str], *, load: bool, base: str | None) -> None:
    """Build IMAGEs (operator, serving-cpu, serving) whose inputs changed."""
    here = cache.default()
    chosen = [images.IMAGES[title] for title in titles or images.DEFAULT]
    archives = [images.build(image, here, base=base) for image in chosen]
    if load:
        containerd.load(Layout(here), archives)


@main.command()
@click.option("--print-path", is_flag=True, help="Print where the wheel lies.")
def torch(*, print_path: bool) -> None:
    """Make the CPU-only wheel of torch that vLLM for the CPU needs."""
    wheel = images.torch_wheel(cache.default())
    if print_path:
        click.echo(wheel)


if __name__ == "__main__":
    main()
