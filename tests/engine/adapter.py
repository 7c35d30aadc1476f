"""A random LoRA adapter."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

RANK = 8
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj")


def write_adapter(folder: Path, model: str) -> str:
    """Write an adapter of all attention projections of a model, and return the folder."""
    (weights,) = Path(model).glob("*.safetensors")
    with safe_open(weights, "pt") as tensors:
        shapes = {
            name.removesuffix(".weight"): tensors.get_slice(name).get_shape()
            for name in tensors.keys()  # noqa: SIM118 (it is no dictionary)
            if name.split(".")[-2] in ADAPTED
        }
    dice = torch.Generator().manual_seed(0)
    adapter = {}
    for name, (rows, columns) in shapes.items():
        prefix = f"base_model.model.{name}"
        adapter[f"{prefix}.lora_A.weight"] = torch.randn(RANK, columns, generator=dice) / 10
        adapter[f"{prefix}.lora_B.weight"] = torch.randn(rows, RANK, generator=dice) / 10
    save_file(adapter, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": ADAPTED}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"bias": "none"}))
    return str(folder)
