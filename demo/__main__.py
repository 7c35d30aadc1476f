"""`python -m demo`: from `kubectl apply` to tokens out of a quantised cache, and back."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

import click
import urllib3
from kubernetes.client.exceptions import ApiException

from demo import install, model, objects, report, timings, view
from demo.cluster import Cluster, ensure_cluster, ensure_images
from demo.findings import Findings
from demo.kube import Kube
from demo.mirror import Mirror, NotReachedError
from demo.story import ACTS, Story
from hack.cluster.access import LocalCluster
from hack.errors import Refusal
from hack.progress import console, step


@click.command()
@click.option("--keep", is_flag=True, help="Leave it running and say how to reach it.")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object.")
@click.option("--yes", is_flag=True, help="Do not ask before installing into your own cluster.")
def main(*, keep: bool, as_json: bool, yes: bool) -> None:
    """Serve a small model from a quantised cache on a real Kubernetes; scale, roll and delete it.

    Uses the cluster that KUBECONFIG names, else one on this machine. Run it again after an
    interruption: what is done already is not done twice.
    """
    started, seen = time.monotonic(), Findings()
    with sentences():
        cluster = ensure_cluster()
        if not isinstance(cluster.access, LocalCluster) and not yes:
            click.confirm(f"Install the operator into {cluster.access.kubeconfig}?", abort=True)
        kube = set_up(cluster)
        with Mirror(kube, objects.NAMESPACE) as mirror:
            play(Story(kube, mirror, seen), keep=keep)
        seen.operator_memory_bytes = install.operator_memory_bytes(cluster)
        if keep:
            console.print(how_to_reach(cluster))
        else:
            clean_up(cluster, kube)
    seen.seconds["everything"] = round(time.monotonic() - started, 1)
    timings.record("demo", seen.seconds["everything"])
    console.print(report.summary_table(seen, ACTS))
    if as_json:
        click.echo(json.dumps(asdict(seen)))


@contextmanager
def sentences() -> Iterator[None]:
    """Turn what may go wrong on the way into one sentence.

    Raises:
        Refusal: what was waited for did not come, or the API server refused something.
    """
    try:
        yield
    except NotReachedError as error:
        raise Refusal(f"{error}. What is there says more; run it again to go on.") from error
    except (ApiException, urllib3.exceptions.HTTPError) as error:
        raise Refusal(f"The API server does not do its part ({error}): run it again.") from error


def set_up(cluster: Cluster) -> Kube:
    """Images, model, operator, namespace: each only as far as it is not there yet."""
    ensure_images(cluster)
    folder = model.ensure()
    kube = cluster.connect()
    with step("Installing the operator") as current:
        install.install_operator(cluster, kube, current)
    with step("Namespace and volume of the model"):
        install.prepare_namespace(cluster, kube, folder)
    return kube


def play(story: Story, *, keep: bool) -> None:
    """Run all acts; where one does not come to its end, show what is known of it."""
    try:
        story.serve()
        story.compare()
        story.complete()
        with story.steady() as steady:
            story.grow(steady)
            story.shrink(steady)
            story.edit(steady)
            story.seen.steady = steady.stop()
        story.check_requests()
        if not keep:
            story.delete()
    except NotReachedError:
        console.print(*report.diagnosis(story.kube, story.mirror), sep="\n")
        raise


def clean_up(cluster: Cluster, kube: Kube) -> None:
    """Remove the namespace, and the cluster too if it was started here."""
    with step("Removing the namespace"):
        install.remove_namespace(kube)
    cluster.take_down()


def how_to_reach(cluster: Cluster) -> str:
    """What to type to use what was kept."""
    return (
        f"It goes on serving. To reach it:\n"
        f"  export KUBECONFIG={cluster.access.kubeconfig}\n"
        f"  kubectl --namespace {objects.NAMESPACE} port-forward service/{view.NAME} 8000 &\n"
        f"  curl localhost:8000/v1/completions --json "
        f'\'{{"model": "{view.NAME}", "prompt": "The light of the Sun"}}\'\n'
        "kubectl: `python -m hack.cluster kubectl`. To end it: `make cluster-down`."
    )


if __name__ == "__main__":
    main()
