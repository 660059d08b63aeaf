"""Llama's kind: RMSNorm, turned positions, SwiGLU, grouped queries; and the modern small recipe on the same parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from genloom.core import Card, Recipe, Result, Spec, build, register, within
from genloom.errors import UserError
from genloom.nn.transformer import Plan, Transformer
from genloom.nn.weights import load_exactly
from genloom.objectives.autoregressive import LanguageModel, check_plan, published

BETAS = (0.9, 0.95)


@register("llama")
class Llama(LanguageModel):
    """No biases, RMSNorm before each part, rotary positions of base `theta`, a gated feed-forward net.

    `groups`: heads of keys and values (0: as many as heads). `feed`: SwiGLU or ReLU². `qk_norm`: queries and keys of
    one length. `quiet`: what adds to the residual stream begins at zero. `tied`: the head is the embedding.
    """

    card = Card(
        paper="LLaMA: Open and Efficient Foundation Language Models",
        authors="Touvron, Lavril, Izacard, Martinet, Lachaux, Lacroix, Rozière, Goyal, et al.",
        year=2023,
        url="https://arxiv.org/abs/2302.13971",
        summary="The transformer as it is built today: turned positions, gated layers, no biases.",
        changes="Grouped queries (Ainslie et al. 2023) as in Llama 2 and 3. The recipes for training here add queries and keys "
        "of one length (Henry et al. 2020) and outputs that begin at zero.",
        results=(Result("accuracy %", 76.1, "HellaSwag, zero-shot, 7B", "table 3"),),
    )
    recipes = {
        "tiny": Recipe(
            steps=12, batch_size=8, model={"layers": 2, "width": 32, "heads": 2, "groups": 1, "context": 16}
        ),
        "cpu": Recipe(
            minutes=10,
            batch_size=12,
            lr=4e-3,
            betas=BETAS,
            weight_decay=0.1,
            clip=1.0,
            warmup=0.05,
            decay=0.95,
            optimiser="muon",
            model={"layers": 4, "width": 128, "heads": 4, "context": 64, "qk_norm": True, "quiet": True},
        ),
        "default": Recipe(
            steps=20_000,
            batch_size=64,
            lr=1e-3,
            betas=BETAS,
            weight_decay=0.1,
            clip=1.0,
            decay=0.3,
            model={"qk_norm": True, "quiet": True},
        ),
        "smollm2-135m": Recipe(
            steps=500_000,
            batch_size=512,
            lr=3e-3,
            betas=BETAS,
            weight_decay=0.1,
            clip=1.0,
            decay=0.2,
            model={
                "layers": 30,
                "width": 576,
                "heads": 9,
                "groups": 3,
                "hidden": 1536,
                "context": 2048,
                "theta": 100_000.0,
            },
        ),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        layers: int = 8,
        width: int = 512,
        heads: int = 8,
        groups: int = 0,
        head: int = 0,
        hidden: int = 0,
        context: int = 512,
        feed: Literal["swiglu", "relu2"] = "swiglu",
        theta: float = 10_000.0,
        qk_norm: bool = False,
        quiet: bool = False,
        tied: bool = True,
        bias: bool = False,
        dropout: float = 0.0,
        lora: int = 0,
        lora_targets: str = "qkv out",
        lora_alpha: float = 16.0,
        eps: float = 1e-6,
    ):
        within(1, 100_000, layers=layers, width=width, heads=heads)
        within(1, 10_000_000, context=context)
        within(0, 1_000_000, head=head, hidden=hidden, lora=lora, groups=groups)
        within(0, 0.99, dropout=dropout)
        within(1e-12, 1, eps=eps)
        within(1e-6, 1e6, lora_alpha=lora_alpha)
        within(1, 1e12, theta=theta)
        super().__init__(spec, context)
        if not head and width % heads:
            raise UserError(
                f"A width of {width} cannot be shared by {heads} heads: choose a divisor, or give --model.head."
            )
        usual = 4 * width if feed == "relu2" else -(-8 * width // 3 // 32) * 32  # as many weights as 4x without a gate
        plan = Plan(
            vocabulary=self.vocabulary,
            width=width,
            layers=layers,
            heads=heads,
            groups=groups or heads,
            head=head or width // heads,
            hidden=hidden or usual,
            norm="rms",
            feed=feed,
            bias=bias,
            tied=tied,
            theta=theta,
            eps=eps,
            qk_norm=qk_norm,
            dropout=dropout,
            quiet=quiet,
        )
        self.network = Transformer(check_plan(plan))
        self.adapt(lora, lora_targets, lora_alpha)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> Llama:
        """Llama in the names of Hugging Face's transformers, and its config.json. Raises UserError for what differs."""
        given = dict(config)
        options = published(given, FIELDS, "Llama")
        check_supported(given)
        rope = given.get("rope_parameters") or {}
        options |= {
            "groups": given.get("num_key_value_heads") or options["heads"],
            "head": given.get("head_dim") or 0,
            "theta": float(given.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            "eps": given.get("rms_norm_eps", 1e-6),
            "tied": bool(given.get("tie_word_embeddings", False)),
        }
        extra = {k: given[k] for k in ("tokenizer",) if k in given}
        spec = Spec("text", (options["context"] + 1,), extra={"vocabulary": given["vocab_size"], **extra})
        model = build(cls, spec, options)
        load_exactly(model.network, ours(weights, model.network.plan), "llama")
        return model.eval()

    def to_reference(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights and config.json that transformers' LlamaForCausalLM loads. Raises UserError for our own parts."""
        plan = self.network.plan
        if plan.qk_norm or plan.feed != "swiglu" or plan.bias:
            raise UserError("transformers' Llama has no qk_norm, no ReLU² and no biases.")
        weights = theirs(self.whole().state_dict(), plan)
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": plan.vocabulary,
            "hidden_size": plan.width,
            "intermediate_size": plan.hidden,
            "num_hidden_layers": plan.layers,
            "num_attention_heads": plan.heads,
            "num_key_value_heads": plan.groups,
            "head_dim": plan.head,
            "max_position_embeddings": self.context,
            "rms_norm_eps": plan.eps,
            "rope_theta": plan.theta,
            "tie_word_embeddings": plan.tied,
            "hidden_act": "silu",
        }
        return weights, config


# ── Hugging Face's names ─────────────────────────────────────────────────────────────────────────────────────────────
FIELDS = {
    "num_hidden_layers": "layers",
    "hidden_size": "width",
    "num_attention_heads": "heads",
    "intermediate_size": "hidden",
    "max_position_embeddings": "context",
}
WHOLE = {"tokens": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
PARTS = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "feed.down": "mlp.down_proj"}
PARTS |= {"attention.out": "self_attn.o_proj"}
JOINED = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "feed.up": ("mlp.gate_proj", "mlp.up_proj"),
}


def check_supported(config: Mapping[str, Any]) -> None:
    """Raises UserError for what changes numbers and is not here."""
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise UserError(f"llama turns positions without scaling, and this model scales them ('{kind}').")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise UserError("llama has no biases, and this model has some.")
    if (act := config.get("hidden_act", "silu")) != "silu":
        raise UserError(f"llama's gate is SiLU, not '{act}'.")


def sizes(plan: Plan) -> dict[str, list[int]]:
    """Rows of each matrix that ours joins."""
    side = plan.groups * plan.head
    return {"attention.qkv": [plan.heads * plan.head, side, side], "feed.up": [plan.hidden, plan.hidden]}


def ours(weights: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Their weights under our names; the rest keeps its name, for the message that refuses it."""
    left = {k: v for k, v in weights.items() if not k.endswith("rotary_emb.inv_freq")}
    if plan.tied:
        left.pop("lm_head.weight", None)
    found = {}
    for mine, name in WHOLE.items():
        if (key := f"{name}.weight") in left:
            found[f"{mine}.weight"] = left.pop(key)
    for i in range(plan.layers):
        for mine, name in PARTS.items():
            if (key := f"model.layers.{i}.{name}.weight") in left:
                found[f"blocks.{i}.{mine}.weight"] = left.pop(key)
        for mine, names in JOINED.items():
            keys = [f"model.layers.{i}.{n}.weight" for n in names]
            if all(k in left for k in keys):
                found[f"blocks.{i}.{mine}.weight"] = torch.cat([left.pop(k) for k in keys])
    return found | left


def theirs(weights: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    """Our weights under their names."""
    found = {}
    for key, value in weights.items():
        part = key.removesuffix(".weight")
        if part in WHOLE:
            found[f"{WHOLE[part]}.weight"] = value
            continue
        _, layer, inner = part.split(".", 2)
        if inner in PARTS:
            found[f"model.layers.{layer}.{PARTS[inner]}.weight"] = value
            continue
        for name, piece in zip(JOINED[inner], value.split(sizes(plan)[inner]), strict=True):
            found[f"model.layers.{layer}.{name}.weight"] = piece.clone()
    return found
