"""The CustomResourceDefinition, written from the models.

``python -m kvarn_operator.crd [--check] [FOLDER]`` writes ``crds/``, or fails where it differs.
"""

from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from kvarn_operator import GROUP, KIND, PLURAL, VERSION
from kvarn_operator.api import KVarNDeployment

COLUMNS = (
    ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', 0),
    ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 0),
    ("Format", "string", ".status.plan.format", 0),
    ("Context", "integer", ".status.plan.maxTokens", 0),
    ("Replicas", "integer", ".status.readyReplicas", 0),
    ("Loading", "integer", ".status.loadingReplicas", 1),
    ("Draining", "integer", ".status.drainingReplicas", 1),
    ("Desired", "integer", ".status.desiredReplicas", 1),
    ("Pressure", "integer", ".status.pressure.percent", 0),
    ("Accelerator", "string", ".status.plan.accelerator", 1),
    ("URL", "string", ".status.url", 1),
    ("Age", "date", ".metadata.creationTimestamp", 0),
)


class _OpenApi(GenerateJsonSchema):
    """JSON schema in the words that a structural schema allows."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        # In Kubernetes an unset field is absent, not null.
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        json_schema = super().default_schema(schema)
        if isinstance(default := schema.get("default"), BaseModel):
            # In full, as the API server tries the rules on it before it fills in what is below.
            json_schema["default"] = default.model_dump(by_alias=True, exclude_none=True)
        elif json_schema.get("default", ...) in (None, "", []):
            json_schema.pop("default")
        return json_schema

    def field_title_should_be_set(self, _schema: Any) -> bool:
        return False


def _structural(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` with its references inlined, its titles gone and `const` as `enum`."""
    if isinstance(node, list):
        return [_structural(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    if "const" in node:
        node = {key: value for key, value in node.items() if key != "const"} | {
            "enum": [node["const"]]
        }
    return {
        key: {name: _structural(child, definitions) for name, child in value.items()}
        if key == "properties"
        else _structural(value, definitions)
        for key, value in node.items()
        if key not in {"title", "$defs"}
    }


def schema() -> dict[str, Any]:
    """The structural OpenAPI schema of the resource."""
    generated = KVarNDeployment.model_json_schema(schema_generator=_OpenApi)
    root: dict[str, Any] = _structural(generated, generated["$defs"])
    root["properties"] = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": root["properties"]["spec"],
        "status": root["properties"]["status"],
    }
    root["required"] = ["spec"]
    root["properties"]["status"].pop("default", None)
    return root


def definition() -> dict[str, Any]:
    """The whole CustomResourceDefinition."""
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "priority": priority}
        for name, kind, path, priority in COLUMNS
    ]
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema()},
        "additionalPrinterColumns": columns,
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
    }
    names = {
        "kind": KIND,
        "listKind": f"{KIND}List",
        "plural": PLURAL,
        "singular": KIND.lower(),
        "shortNames": ["kvd"],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {"group": GROUP, "names": names, "scope": "Namespaced", "versions": [version]},
    }


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _data: Any) -> bool:
        """No anchors: people read this file."""
        return True


def text() -> str:
    """The CustomResourceDefinition as YAML."""
    return yaml.dump(definition(), Dumper=_Plain, sort_keys=False, width=100)


@click.command(help=__doc__)
@click.argument("folder", type=click.Path(path_type=Path), default=Path("crds"))
@click.option("--check", is_flag=True, help="Write nothing; fail if the file is out of date.")
def main(folder: Path, check: bool) -> None:
    """Write the CRD, or compare it with the one that is there."""
    file = folder / f"{PLURAL}.yaml"
    if not check:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(text(), encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != text():
        raise click.ClickException(f"{file} is out of date: run python -m kvarn_operator.crd.")


if __name__ == "__main__":
    main()
