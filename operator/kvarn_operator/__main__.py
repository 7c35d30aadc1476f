"""``python -m kvarn_operator``: the operator as a process."""

import logging

import click
import kopf
from prometheus_client import start_http_server

from kvarn_operator import metrics
from kvarn_operator.config import Config
from kvarn_operator.handlers import register


@click.command(help="Serve KVarNDeployment resources.")
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    envvar="KVARN_NAMESPACES",
    help="Watch only this namespace; repeat for more. All namespaces if not given.",
)
@click.option(
    "--standalone/--peering",
    default=True,
    help="Whether to run without looking for other operators (one replica, Recreate).",
)
@click.option("--priority", type=int, default=0, help="With --peering, the highest one works.")
@click.option("--log-format", type=click.Choice(["json", "text"]), default="json")
@click.option("--verbose", is_flag=True, help="Log each request and each event.")
@click.option("--metrics-port", type=int, default=8080, envvar="KVARN_METRICS_PORT")
@click.option("--health-port", type=int, default=8081, envvar="KVARN_HEALTH_PORT")
def main(
    *,
    namespaces: tuple[str, ...],
    standalone: bool,
    priority: int,
    log_format: str,
    verbose: bool,
    metrics_port: int,
    health_port: int,
) -> None:
    """Run until the process is told to end."""
    form = kopf.LogFormat.JSON if log_format == "json" else kopf.LogFormat.FULL
    kopf.configure(verbose=verbose, log_format=form)
    if not verbose:
        # Else each probe, and each event that wakes us, is a line of its own.
        for name in ("aiohttp.access", "kopf.activities", "kopf.objects"):
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        config = Config.from_environment()
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    registry = kopf.OperatorRegistry()
    register(registry, config)
    start_http_server(metrics_port, registry=metrics.REGISTRY)
    kopf.run(
        registry=registry,
        clusterwide=not namespaces,
        namespaces=namespaces,
        standalone=standalone,
        priority=priority,
        liveness_endpoint=f"http://0.0.0.0:{health_port}/healthz",
    )


if __name__ == "__main__":
    main()
