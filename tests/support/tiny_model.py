"""Small random models that a real vLLM can serve."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

BYTES = 256
END = BYTES

SMALL = {
    "vocab_size": BYTES + 1,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "bos_token_id": END,
    "eos_token_id": END,
    "initializer_range": 0.1,
}


def write_tiny_model(folder: Path, *, model_type: str = "llama", **changes: Any) -> Path:
    """Write a random model with a tokenizer of bytes.

    Args:
        folder: where to; made if need be.
        model_type: architecture, as transformers names it.
        changes: of the model's config, for example ``num_hidden_layers=2``.

    Returns:
        The folder.
    """
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SMALL | changes)
    AutoModelForCausalLM.from_config(config).to(torch.float32).save_pretrained(folder)
    _byte_tokenizer().save_pretrained(folder)
    return folder


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that every text has as many tokens as bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: code for code, character in enumerate([*alphabet, "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>")
