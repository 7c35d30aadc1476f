"""The overlay on the pods' template, as far as it has to be right for merging it by name.

The rest of it is the API server's business, which sees it in the Deployment.
"""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from kvarn_operator.api.base import ApiModel, OpenObject

_ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}
_OPEN = ConfigDict(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})


class Named(ApiModel):
    """A volume or a variable: merged with the one of the same name."""

    model_config = _OPEN

    name: str = Field(max_length=253)
    """Its name."""


class Port(ApiModel):
    """A port, merged by its number."""

    model_config = _OPEN

    container_port: int
    """Its number."""


class Mount(ApiModel):
    """A mount, merged by its path."""

    model_config = _OPEN

    mount_path: str = Field(max_length=4096)
    """Where it is seen in the container."""


class Container(Named):
    """A container: ``server`` is the operator's, any other is a sidecar."""

    env: list[Named] = Field(default_factory=list, json_schema_extra=_ATOMIC)
    """Environment variables."""
    ports: list[Port] = Field(default_factory=list, json_schema_extra=_ATOMIC)
    """Ports."""
    volume_mounts: list[Mount] = Field(default_factory=list, json_schema_extra=_ATOMIC)
    """Mounts of the pod's volumes."""


class PodSpec(ApiModel):
    """The pods' spec."""

    model_config = _OPEN

    containers: list[Container] = Field(default_factory=list, json_schema_extra=_ATOMIC)
    """The server and its sidecars."""
    volumes: list[Named] = Field(default_factory=list, json_schema_extra=_ATOMIC)
    """Volumes of the pods."""


class Template(ApiModel):
    """A PodTemplate."""

    metadata: OpenObject = Field(default_factory=dict)
    """Labels and annotations."""
    spec: PodSpec = Field(default_factory=PodSpec)
    """The pods' spec."""


def _mergeable(overlay: dict[str, Any]) -> dict[str, Any]:
    """The overlay as it was given, if it can be merged."""
    Template.model_validate(overlay)
    return overlay


PodTemplate = Annotated[dict[str, Any], PlainValidator(_mergeable, json_schema_input_type=Template)]
"""A strategic merge patch of a PodTemplate."""
