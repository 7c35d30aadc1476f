"""KEDA and Prometheus from their Go modules, for the test of `autoscaling.mode: keda` alone.

    python -m hack.keda            prints the archives of their images

KEDA is compiled from its published module, with all scalers, and is installed by the manifests in
it. Nothing but names and pull policies of images is changed.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import yaml

from hack import cache as caches
from hack.cache import Cache
from hack.cluster import build, golang
from hack.images import programs

MODULE = "github.com/kedacore/keda/v2"


def archives(cache: Cache) -> list[Path]:
    """The archives of the two images, built first if need be.

    Raises:
        Refusal: no Go, no room, or a compiler error.
    """
    return [
        programs.archive(image, cache, build.build(module, cache))
        for image, module in (
            (programs.KEDA, build.KEDA),
            (programs.PROMETHEUS, build.PROMETHEUS),
        )
    ]


def source(cache: Cache) -> Path:
    """KEDA's files as they were published, downloaded into Go's module cache if need be."""
    version, checksum = _published()
    go = golang.find(cache, minimum=build.minimum_go(build.KEDA))
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{MODULE}@{version}"],
        env=golang.environment(),
        # In a module of ours, Go would fetch what all others require as well.
        cwd="/",
        check=True,
        capture_output=True,
    )
    module = json.loads(done.stdout)
    assert module["Sum"] == checksum, f"{MODULE} is not what go.sum says"
    return Path(module["Dir"])


def definition(cache: Cache) -> Path:
    """The CustomResourceDefinition of a ScaledObject."""
    return source(cache) / "config" / "crd" / "bases" / "keda.sh_scaledobjects.yaml"


def manifests(cache: Cache) -> list[dict[str, Any]]:
    """KEDA's own installation, admission webhooks included, with the programs built here."""
    kube = build.build(build.KUBE, cache) / "kube"
    rendered = subprocess.run(
        [kube, "kubectl", "kustomize", source(cache) / "config" / "default"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = list(yaml.safe_load_all(rendered))
    for manifest in found:
        if manifest["kind"] == "Deployment":
            for container in manifest["spec"]["template"]["spec"]["containers"]:
                container |= {"image": programs.KEDA.name, "imagePullPolicy": "IfNotPresent"}
    return found


def _published() -> tuple[str, str]:
    """Version and checksum of KEDA's module."""
    sums = (build.KEDA.source / "go.sum").read_text()
    found = re.search(rf"^{re.escape(MODULE)} (v\S+) (h1:\S+)$", sums, re.MULTILINE)
    assert found, f"{build.KEDA.source}/go.sum has no {MODULE}"
    return found[1], found[2]


@click.command(help="Print the archives of KEDA's and Prometheus' images, made first if need be.")
def main() -> None:
    """The command line."""
    for archive in archives(caches.default()):
        click.echo(archive)


if __name__ == "__main__":
    main()
