"""Runs -> what other programs load: so far language models, as a folder of Hugging Face's transformers."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file

from genloom import generate
from genloom.errors import UserError
from genloom.objectives.autoregressive import LanguageModel
from genloom.run import Run
from genloom.text.tokenizer import Pairs


def to_transformers(run: Run, out: Path) -> Path:
    """config.json, model.safetensors, and the tokenizer where it is one of byte pairs; LoRA is merged.

    Raises UserError for a model that has no counterpart there, and for a folder that is not empty.
    """
    model = generate.load(run)
    if not isinstance(model, LanguageModel):
        raise UserError(f"export writes language models so far, and '{run.folder}' holds a '{model.name}'.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' is not an empty folder: give another.")
    weights, config = model.to_reference()
    if config["tie_word_embeddings"]:
        weights.pop("lm_head.weight", None)
    kept = {k: v.contiguous().cpu() for k, v in weights.items()}
    tokens = model.tokenizer if "tokenizer" in run.spec.extra else None
    if tokens is not None:
        config |= {"bos_token_id": tokens.end, "eos_token_id": tokens.end}
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if isinstance(tokens, Pairs):
            (out / "tokenizer.json").write_text(tokens.inner.to_str(), encoding="utf-8")
            end = tokens.inner.id_to_token(tokens.end)
            told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
            (out / "tokenizer_config.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        save_file(kept, out / "model.safetensors", {"format": "pt"})
    except OSError as error:
        raise UserError(f"'{out}' cannot be written: {error.strerror}.") from None
    return out
