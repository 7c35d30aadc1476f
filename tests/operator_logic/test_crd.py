"""The CRD is generated, structural, and takes the samples."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from kvarn_operator import crd
from kvarn_operator.api import KVarNDeployment

ROOT = Path(__file__).parents[2]
SAMPLES = sorted((ROOT / "manifests" / "samples").glob("*.yaml"))
FORBIDDEN = {"$ref", "$defs", "title", "const", "oneOf", "anyOf", "exclusiveMinimum", "examples"}


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All nodes of a schema that describe a value, with their paths."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from nodes(schema[word], f"{path}.{word}")


NODES = list(nodes(crd.schema()))


def test_the_file_is_up_to_date() -> None:
    result = CliRunner().invoke(crd.main, ["--check", str(ROOT / "crds")])

    assert result.exit_code == 0, result.output


def test_a_stale_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    result = CliRunner().invoke(crd.main, ["--check", str(tmp_path)])

    assert result.exit_code == 1
    assert "run python -m kvarn_operator.crd" in result.output


def test_each_node_has_a_type_and_nothing_that_a_structural_schema_forbids() -> None:
    for path, node in NODES:
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not FORBIDDEN & set(node), path
        assert not ("properties" in node and "additionalProperties" in node), path


def test_there_are_no_floats() -> None:
    assert [path for path, node in NODES if node.get("type") == "number"] == []


def test_lists_say_how_they_merge() -> None:
    lists = [(path, node) for path, node in NODES if node.get("type") == "array"]

    assert [path for path, node in lists if "x-kubernetes-list-type" not in node] == []


def test_what_a_rule_walks_is_bounded() -> None:
    strings = [(p, n) for p, n in NODES if n.get("type") == "string" and p.startswith(".spec")]
    bounded = {"maxLength", "enum"}

    assert [path for path, node in strings if not bounded & set(node)] == []


@pytest.mark.parametrize("prefix", [".spec.", ".status."])
def test_kubectl_explain_has_something_to_say_of_each_field(prefix: str) -> None:
    fields = [
        (p, n)
        for p, n in NODES
        if p.startswith(prefix) and not p.endswith((".items", ".additionalProperties"))
    ]

    assert [path for path, node in fields if not node.get("description")] == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_samples_are_valid(sample: Path) -> None:
    document = yaml.safe_load(sample.read_text())

    jsonschema.validate(document, crd.schema())
    KVarNDeployment.model_validate(document)


def test_the_minimal_sample_has_ten_lines() -> None:
    lines = (ROOT / "manifests" / "samples" / "minimal.yaml").read_text().splitlines()

    assert len([line for line in lines if not line.startswith("#")]) <= 10
