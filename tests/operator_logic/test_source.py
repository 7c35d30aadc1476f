"""A model's source, taken apart."""

import pytest

from kvarn_operator.source import Source


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("hf://Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("pvc://models/llama/8b/", "/models/llama/8b"),
        ("pvc://models", "/models"),
        ("host:///srv/models/llama", "/models"),
    ],
)
def test_the_server_gets_a_path_or_a_repository(text: str, model: str) -> None:
    assert Source.parse(text).model == model


@pytest.mark.parametrize("text", ["", "Qwen/Qwen3-8B", "s3://bucket/model", "hf://"])
def test_anything_else_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match="give hf://"):
        Source.parse(text)
