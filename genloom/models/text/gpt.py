"""GPT-2 and GPT-3: the transformer that predicts the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from genloom.core import Card, Recipe, Result, Spec, build, register, within
from genloom.errors import UserError
from genloom.nn.transformer import Plan, Transformer
from genloom.nn.weights import load_exactly
from genloom.objectives.autoregressive import LanguageModel, check_plan, published

BETAS = (0.9, 0.95)


def gpt2(layers: int, width: int, heads: int) -> Recipe:
    """A size of Radford et al. 2019, table 2: head of 64, context 1024."""
    return Recipe(
        steps=600_000,
        batch_size=480,
        lr=6e-4,
        betas=BETAS,
        weight_decay=0.1,
        clip=1.0,
        model={"layers": layers, "width": width, "heads": heads, "context": 1024},
    )


def gpt3(layers: int, width: int, heads: int, head: int, batch: float, lr: float) -> Recipe:
    """A size of Brown et al. 2020, table 2.1: context 2048, batches of so many million tokens, 300 billion in all."""
    size = round(batch * 1e6 / 2048)
    return Recipe(
        steps=round(300e9 / (size * 2048)),
        batch_size=size,
        lr=lr,
        betas=BETAS,
        weight_decay=0.1,
        clip=1.0,
        model={"layers": layers, "width": width, "heads": heads, "head": head, "context": 2048, "band": 256},
    )


@register("gpt")
class GPT(LanguageModel):
    """Learned positions, LayerNorm before each part, GELU, the head tied to the embedding.

    `gelu`: "tanh", as in GPT-2, or "erf", the exact one, on a CPU twice as fast. `head`: numbers a head (0: width / heads). `band`: every second layer sees so many tokens back at most, as in
    GPT-3 (0: all see all); its paper does not say how many, 256 is ours.
    """

    card = Card(
        paper="Language Models are Few-Shot Learners",
        authors="Brown, Mann, Ryder, Subbiah, Kaplan, Dhariwal, Neelakantan, Shyam, et al.",
        year=2020,
        url="https://arxiv.org/abs/2005.14165",
        summary="Predicts the next token from all before it: the language model of GPT-2 and GPT-3.",
        changes="Dropout only where it is asked for. Sizes as in GPT-3's table 2.1, its 13B width of 5140 included, but for the "
        "heads of 1.3B: the table's 24 of 128 would make 1.5 billion parameters, 16 make 1.3.",
        results=(Result("perplexity", 20.5, "Penn Treebank, zero-shot, 175B", "section 3.1.1"),),
    )
    recipes = {
        "tiny": Recipe(steps=12, batch_size=8, model={"layers": 2, "width": 32, "heads": 2, "context": 16}),
        "cpu": Recipe(
            minutes=10,
            batch_size=12,
            lr=4e-3,
            betas=(0.9, 0.99),
            weight_decay=0.1,
            clip=1.0,
            warmup=0.05,
            decay=0.95,
            model={"layers": 4, "width": 128, "heads": 4, "context": 64, "gelu": "erf"},
        ),
        "default": Recipe(steps=20_000, batch_size=64, lr=6e-4, betas=BETAS, weight_decay=0.1, clip=1.0, decay=0.3),
        "gpt2": gpt2(12, 768, 12),
        "gpt2-medium": gpt2(24, 1024, 16),
        "gpt2-large": gpt2(36, 1280, 20),
        "gpt2-xl": gpt2(48, 1600, 25),
        "gpt3-125m": gpt3(12, 768, 12, 64, 0.5, 6e-4),
        "gpt3-350m": gpt3(24, 1024, 16, 64, 0.5, 3e-4),
        "gpt3-760m": gpt3(24, 1536, 16, 96, 0.5, 2.5e-4),
        "gpt3-1.3b": gpt3(24, 2048, 16, 128, 1.0, 2e-4),
        "gpt3-2.7b": gpt3(32, 2560, 32, 80, 1.0, 1.6e-4),
        "gpt3-6.7b": gpt3(32, 4096, 32, 128, 2.0, 1.2e-4),
        "gpt3-13b": gpt3(40, 5140, 40, 128, 2.0, 1e-4),
        "gpt3-175b": gpt3(96, 12288, 96, 128, 3.2, 0.6e-4),
    }

    def __init__(
        self,
        spec: Spec,
        *,
        layers: int = 6,
        width: int = 384,
        heads: int = 6,
        head: int = 0,
        context: int = 256,
        hidden: int = 0,
        gelu: str = "tanh",
        band: int = 0,
        bias: bool = True,
        dropout: float = 0.0,
        lora: int = 0,
        lora_targets: str = "qkv out",
        lora_alpha: float = 16.0,
        eps: float = 1e-5,
    ):
        within(1, 100_000, layers=layers, width=width, heads=heads)
        within(1, 10_000_000, context=context)
        within(0, 1_000_000, head=head, hidden=hidden, lora=lora, band=band)
        within(0, 0.99, dropout=dropout)
        within(1e-12, 1, eps=eps)
        within(1e-6, 1e6, lora_alpha=lora_alpha)
        super().__init__(spec, context)
        if not head and width % heads:
            raise UserError(
                f"A width of {width} cannot be shared by {heads} heads: choose a divisor, or give --model.head."
            )
        if gelu not in ("tanh", "erf"):
            raise UserError(f"--model.gelu is tanh or erf, not '{gelu}'.")
        plan = Plan(
            vocabulary=self.vocabulary,
            width=width,
            layers=layers,
            heads=heads,
            groups=heads,
            head=head or width // heads,
            hidden=hidden or 4 * width,
            positions=context,
            norm="layer",
            feed="gelu" if gelu == "tanh" else "erf_gelu",
            bias=bias,
            eps=eps,
            band=band,
            dropout=dropout,
        )
        self.network = Transformer(check_plan(plan))
        self.adapt(lora, lora_targets, lora_alpha)

    @classmethod
    def from_reference(cls, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> GPT:
        """GPT-2 in the names of Hugging Face's transformers, and its config.json. Raises UserError for what differs."""
        options = published(dict(config), FIELDS, "GPT-2")
        curve = config.get("activation_function", "gelu_new")
        if curve not in GELUS:
            raise UserError(f"gpt has GELU between its layers, not '{curve}'.")
        options |= {"hidden": config.get("n_inner") or 0, "eps": config.get("layer_norm_epsilon", 1e-5)}
        options["gelu"] = GELUS[curve]
        extra = {k: config[k] for k in ("tokenizer",) if k in config}
        spec = Spec("text", (options["context"] + 1,), extra={"vocabulary": config["vocab_size"], **extra})
        model = build(cls, spec, options)
        load_exactly(model.network, ours(weights), "gpt")
        return model.eval()

    def to_reference(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights and config.json that transformers' GPT2LMHeadModel loads. Raises UserError for a band."""
        plan = self.network.plan
        if plan.band or plan.head * plan.heads != plan.width or not plan.bias:
            raise UserError("transformers' GPT-2 has no bands, no heads wider than their share, and always biases.")
        weights = {}
        for key, value in self.whole().state_dict().items():
            name = theirs(key)
            weights[name] = value.T.contiguous() if transposed(name) else value
        weights["lm_head.weight"] = weights["transformer.wte.weight"]
        config = {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": plan.vocabulary,
            "n_positions": plan.positions,
            "n_embd": plan.width,
            "n_layer": plan.layers,
            "n_head": plan.heads,
            "n_inner": plan.hidden,
            "activation_function": "gelu_new" if plan.feed == "gelu" else "gelu",
            "layer_norm_epsilon": plan.eps,
            "tie_word_embeddings": True,
        }
        return weights, config


# ── Hugging Face's names ─────────────────────────────────────────────────────────────────────────────────────────────
GELUS = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "erf"}
FIELDS = {"n_layer": "layers", "n_embd": "width", "n_head": "heads", "n_positions": "context"}
PARTS = {
    "norm1": "ln_1",
    "attention.qkv": "attn.c_attn",
    "attention.out": "attn.c_proj",
    "norm2": "ln_2",
    "feed.up": "mlp.c_fc",
    "feed.down": "mlp.c_proj",
}
WHOLE = {"tokens": "wte", "places": "wpe", "norm": "ln_f"}


def theirs(key: str) -> str:
    """Our key of the network as transformers names it."""
    part, kind = key.rsplit(".", 1)
    if part in WHOLE:
        return f"transformer.{WHOLE[part]}.{kind}"
    _, layer, inner = part.split(".", 2)
    return f"transformer.h.{layer}.{PARTS[inner]}.{kind}"


def transposed(name: str) -> bool:
    """GPT-2 keeps its linear layers' weights as [in, out]."""
    return name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight"))


def ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names; a head that is the embedding again and masks kept as buffers are left out."""
    inner, whole = {v: k for k, v in PARTS.items()}, {v: k for k, v in WHOLE.items()}
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        short = name.removeprefix("transformer.")
        if short.endswith((".attn.bias", ".attn.masked_bias")) and ".c_" not in short:
            continue
        if short == "lm_head.weight":
            embedding = weights.get("transformer.wte.weight", weights.get("wte.weight"))
            if embedding is None or not torch.equal(value, embedding):
                raise UserError("gpt's head is its embedding, and this file has another head.")
            continue
        part, _, kind = short.rpartition(".")
        if part in whole:
            key = f"{whole[part]}.{kind}"
        elif part.startswith("h.") and part.split(".", 2)[-1] in inner:
            _, layer, rest = part.split(".", 2)
            key = f"blocks.{layer}.{inner[rest]}.{kind}"
        else:
            key = name
        found[key] = value.T if transposed(short) else value
    return found
