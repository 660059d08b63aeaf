"""llama.cpp's files: weights, options and vocabulary of a Llama, in the names of Hugging Face's transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genloom.errors import UserError
from genloom.text.tokenizer import Pairs, library

WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
DIGIT_BY_DIGIT = ("smollm", "starcoder", "refact", "command-r")  # kinds of pre-tokenizer that part numbers first
PLAIN = ("gpt-2", "gpt2", "default", "")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights as float32, and a config with the tokenizer. Raises UserError for a file that is cut short or no Llama."""
    lib = gguf_library()
    try:
        reader = lib.GGUFReader(path)
        told = {name: field.contents() for name, field in reader.fields.items()}
        tensors = {t.name: (t.data, t.tensor_type) for t in reader.tensors}
    except Exception as error:  # the library trusts a file's own numbers, and fails in many ways
        raise UserError(
            f"'{path}' is not a whole GGUF file ({type(error).__name__}: {error}): fetch it again."
        ) from None
    kind = told.get("general.architecture")
    if kind != "llama":
        raise UserError(f"'{path}' holds a model of kind '{kind}', and only 'llama' is known here.")
    config = options(told, path)
    weights = {}
    for name, (data, stored) in tensors.items():
        part = name.removesuffix(".weight")
        value = torch.from_numpy(np.array(lib.dequantize(data, stored), np.float32))
        if part in WHOLE:
            weights[f"{WHOLE[part]}.weight"] = value
        elif part.startswith("blk.") and (inner := part.split(".", 2)[2]) in PARTS:
            heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}.get(inner)
            weights[f"model.layers.{part.split('.')[1]}.{PARTS[inner]}.weight"] = (
                halves(value, heads) if heads else value
            )
        elif part != "rope_freqs":
            raise UserError(f"'{path}' holds a tensor '{name}' that llama does not have.")
    config["tie_word_embeddings"] = "lm_head.weight" not in weights
    return weights, config


def halves(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head from pairs next to each other, as llama.cpp turns them, to two halves."""
    return weight.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def options(told: dict[str, Any], path: Path) -> dict[str, Any]:
    """The config.json that the file's own fields amount to. Raises UserError for one that is missing."""
    names = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "intermediate_size": "feed_forward_length",
        "num_attention_heads": "attention.head_count",
        "max_position_embeddings": "context_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    }
    if missing := next((n for n in names.values() if f"llama.{n}" not in told), None):
        raise UserError(f"'{path}' does not tell 'llama.{missing}'.")
    config = {ours: told[f"llama.{theirs}"] for ours, theirs in names.items()}
    config["num_key_value_heads"] = told.get("llama.attention.head_count_kv", config["num_attention_heads"])
    config["rope_theta"] = told.get("llama.rope.freq_base", 10_000.0)
    words = told.get("tokenizer.ggml.tokens", [])
    config["vocab_size"] = len(words)
    config["eos_token_id"] = told.get("tokenizer.ggml.eos_token_id")
    if told.get("tokenizer.ggml.model") == "gpt2":
        config["tokenizer"] = vocabulary(told, words).to_json()
    return config


def vocabulary(told: dict[str, Any], words: list[str]) -> Pairs:
    """The byte-level tokenizer of the file's tokens and merges. Raises UserError for a way of parting text not known here."""
    lib, kind = library(), told.get("tokenizer.ggml.pre", "")
    if kind not in (*PLAIN, *DIGIT_BY_DIGIT):
        raise UserError(f"This file's tokenizer parts text in the way '{kind}', which is not known here.")
    merges = [tuple(line.split(" ", 1)) for line in told.get("tokenizer.ggml.merges", [])]
    inner = lib.Tokenizer(lib.models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    bytewise = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind in DIGIT_BY_DIGIT:
        bytewise = lib.pre_tokenizers.Sequence([lib.pre_tokenizers.Digits(individual_digits=True), bytewise])
    inner.pre_tokenizer, inner.decoder = bytewise, lib.decoders.ByteLevel()
    kinds = told.get("tokenizer.ggml.token_type", [1] * len(words))
    inner.add_special_tokens([w for w, k in zip(words, kinds, strict=True) if k == 3])  # control tokens
    return Pairs(inner.to_str(), told.get("tokenizer.ggml.eos_token_id"))


def gguf_library() -> Any:
    try:
        import gguf
    except ImportError:
        raise UserError("GGUF files need the library `gguf`: pip install 'genloom[text]'.") from None
    return gguf
