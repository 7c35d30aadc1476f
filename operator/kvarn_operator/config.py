"""Settings of the operator itself, from its environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

LONGEST_POLL_SECONDS = 15.0
"""Rates are taken over a minute, from several looks."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What an administrator decides once, for all resources."""

    serving_image: str = "localhost/kvarn-serving:dev"
    """Image of servers on GPUs, where a resource names none; ``KVARN_SERVING_IMAGE``."""
    serving_cpu_image: str = "localhost/kvarn-serving-cpu:dev"
    """Image of servers on the CPU, where a resource names none; ``KVARN_SERVING_CPU_IMAGE``."""
    hub_endpoint: str = ""
    """Mirror of the hub, handed on to the pods; ``HF_ENDPOINT``."""
    poll_seconds: float = 5.0
    """How often the pods' metrics are read; ``KVARN_POLL_SECONDS``."""
    metrics_api_port: int = 8443
    """Where the API server asks for metrics; ``KVARN_METRICS_API_PORT``."""
    metrics_port: int = 8000
    """Where servers answer ``/metrics``; other than 8000 only in tests."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings, with the defaults above for what is unset.

        Raises:
            ValueError: a number is none, or out of its range.
        """
        poll = environment.get("KVARN_POLL_SECONDS", "5")
        try:
            seconds = float(poll)
        except ValueError:
            seconds = 0.0
        if not 0.1 <= seconds <= LONGEST_POLL_SECONDS:
            raise ValueError(
                f"KVARN_POLL_SECONDS is {poll!r}: give 0.1 to {LONGEST_POLL_SECONDS:g}."
            )
        return cls(
            serving_image=environment.get("KVARN_SERVING_IMAGE", cls.serving_image),
            serving_cpu_image=environment.get("KVARN_SERVING_CPU_IMAGE", cls.serving_cpu_image),
            hub_endpoint=environment.get("HF_ENDPOINT", ""),
            poll_seconds=seconds,
            metrics_api_port=_port(environment, "KVARN_METRICS_API_PORT", cls.metrics_api_port),
        )


def _port(environment: Mapping[str, str], name: str, default: int) -> int:
    given = environment.get(name, str(default))
    if not given.isdecimal() or not 0 < int(given) < 1 << 16:
        raise ValueError(f"{name} is {given!r}: give a port, 1 to 65535.")
    return int(given)
