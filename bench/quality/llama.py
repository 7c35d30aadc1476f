"""A Llama in plain PyTorch whose attention can be exchanged: the model that quality is measured on.

Names and rotary positions are those of Hugging Face's `LlamaForCausalLM`, so that vLLM and
transformers load the same folder.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Causal attention of one layer: layer, query ``[B, Hq, T, D]``, keys and values ``[B, Hkv, T, D]``
with their positions already in them; returns ``[B, Hq, T, D]``."""


@dataclass(frozen=True)
class Shape:
    """What the model consists of; the names are those of Hugging Face's config."""

    vocab_size: int = 4096
    hidden_size: int = 512
    intermediate_size: int = 1280
    num_hidden_layers: int = 8
    num_attention_heads: int = 8
    num_key_value_heads: int = 2
    head_dim: int = 128
    max_position_embeddings: int = 4096
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5


def plain_attention(_layer: int, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention on the keys and values as they are."""
    return functional.scaled_dot_product_attention(
        query, keys, values, is_causal=True, enable_gqa=True
    )


class Attention(nn.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, shape.head_dim
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """Hidden states ``[B, T, hidden]``; turn: cosines and sines ``[2, T, D]``."""
        query, keys, values = (
            project(hidden).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(self.layer, rotate(query, turn), rotate(keys, turn), values)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return out


class Mlp(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states in and out ``[B, T, hidden]``."""
        gated = functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden)
        out: Tensor = self.down_proj(gated)
        return out


class Block(nn.Module):
    """One layer."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, hidden: Tensor, turn: Tensor, attend: Attend) -> Tensor:
        """Hidden states in and out ``[B, T, hidden]``."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), turn, attend)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class Decoder(nn.Module):
    """Everything but the head, which shares the embedding's weights."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape, n) for n in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)


class Llama(nn.Module):
    """The whole model."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(
        self, tokens: Tensor, attend: Attend = plain_attention, *, first_position: int = 0
    ) -> Tensor:
        """Logits ``[B, T, vocabulary]`` after each of the tokens ``[B, T]``."""
        hidden = self.model.embed_tokens(tokens)
        end = first_position + tokens.shape[1]
        turn = angles(self.shape, torch.arange(first_position, end, device=tokens.device))
        for block in self.model.layers:
            hidden = block(hidden, turn, attend)
        return functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight)


def angles(shape: Shape, positions: Tensor) -> Tensor:
    """Cosines and sines of the rotary positions, float32 ``[2, T, D]``."""
    pairs = torch.arange(0, shape.head_dim, 2, device=positions.device) / shape.head_dim
    angle = positions[:, None] * shape.rope_theta**-pairs
    return torch.stack([angle.cos(), angle.sin()]).repeat(1, 1, 2)


def rotate(heads: Tensor, turn: Tensor) -> Tensor:
    """Give heads ``[B, H, T, D]`` their positions; channel i pairs with i + D/2."""
    first, second = heads.chunk(2, dim=-1)
    turned = heads * turn[0] + torch.cat([-second, first], dim=-1) * turn[1]
    return turned.to(heads.dtype)


def save(model: Llama, folder: Path) -> None:
    """Write `config.json` and the weights in fp16, as Hugging Face names them."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "bos_token_id": 0,
        "eos_token_id": 0,
        **asdict(model.shape),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load(folder: Path, device: torch.device) -> Llama:
    """The model that :func:`save` wrote, in fp32."""
    config = json.loads((folder / "config.json").read_text())
    model = Llama(Shape(**{name: config[name] for name in Shape.__dataclass_fields__}))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: weight.float() for name, weight in weights.items()})
    return model.to(device).eval()
