"""GPT and Llama: the reference implementation's numbers, published sizes, and folders in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import genloom
from genloom.core import Spec, build, find
from genloom.errors import UserError
from genloom.models.text.gpt import GPT
from genloom.models.text.llama import Llama
from genloom.objectives.autoregressive import LanguageModel
from genloom.text.decode import Window, draw
from genloom.text.logits import Sampling
from genloom.text.tokenizer import Pairs

GOLDEN = Path(__file__).parent / "golden"
FAMILIES = {"gpt2": GPT, "llama": Llama}


def golden(name: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, Any]]:
    """Inputs and outputs, weights, and what the reference was called with."""
    case = json.loads((GOLDEN / f"lm_{name}.json").read_text())
    return load_file(GOLDEN / f"lm_{name}.safetensors"), load_file(GOLDEN / f"lm_{name}_weights.safetensors"), case


def imported(name: str) -> tuple[LanguageModel, dict[str, torch.Tensor], dict[str, Any]]:
    io, weights, case = golden(name)
    return FAMILIES[name].from_reference(weights, case["kwargs"]), io, case


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_logits_with_and_without_a_cache_and_beside_padding(name):
    model, io, case = imported(name)
    ids, split = io["input_ids"], case["cache_split"]
    close(model.network(ids), io["logits"])
    window = Window(model.network, ids[:, :split].tolist(), model.context)
    for t in range(split, ids.shape[1]):
        close(window.logits, io["logits_cached"][:, t - 1])
        window.push(ids[:, t].tolist())
    close(window.logits, io["logits_cached"][:, -1])
    rows = [r[a.bool()].tolist() for r, a in zip(io["padded_ids"], io["attention_mask"], strict=True)]
    close(Window(model.network, rows, model.context).logits, io["logits_leftpad"][:, -1])


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("key", "how"), [("greedy_cache_True", {}), ("greedy_rep1.3", {"repetition": 1.3})])
def test_greedy_text_is_the_references(name, key, how):
    model, io, case = imported(name)
    out = io["prompt"].tolist()
    sampling = Sampling(temperature=0, **how)
    for drawn in draw(
        model.network, io["prompt"].tolist(), sampling, context=64, limit=case["max_new_tokens"], ends=frozenset()
    ):
        for row, token in zip(drawn.rows, drawn.tokens, strict=True):
            out[row].append(token)
    assert out == io[key].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_loss_and_its_gradient(name):
    model, io, case = imported(name)
    ids = io["input_ids"]
    loss = model.loss({"text": ids}, "all")["nats"].mean()
    close(loss[None], io["loss"])
    loss.backward()
    wanted = io[f"grad.{case['grad_of']}"]
    if name == "gpt2":
        found = model.network.blocks[1].attention.qkv.weight.grad.T
    else:
        found = model.network.blocks[0].attention.qkv.weight.grad[32 : 32 + len(wanted)]  # after 4 heads of 8
    close(found, wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folder_goes_in_and_comes_out_again(name, tmp_path):
    _, weights, case = golden(name)
    folder = tmp_path / "theirs"
    folder.mkdir()
    size = case["kwargs"]["vocab_size"]
    (folder / "config.json").write_text(json.dumps(case["kwargs"]))
    save_file(weights, folder / "model.safetensors")
    run = genloom.import_("gpt" if name == "gpt2" else "llama", folder, tmp_path / "run")
    model = genloom.load(run)
    back, config = model.to_reference()
    assert config["vocab_size"] == size
    assert {k: v.tolist() for k, v in back.items() if k in weights} == {k: v.tolist() for k, v in weights.items()}
    (tmp_path / "a.txt").write_text("the cat sat on the mat. " * 60)
    for verb in (
        lambda: genloom.sample(run, 1),
        lambda: genloom.fit(type(model), tmp_path / "a.txt", tmp_path / "on", recipe="tiny", init=run.folder),
        lambda: genloom.evaluate(run, tmp_path / "a.txt"),
    ):
        with pytest.raises(UserError, match=r"no tokenizer: import it from a folder that holds tokenizer.json"):
            verb()


def test_text_from_an_imported_folder_with_its_tokenizer(tmp_path):
    words = Pairs.train(iter(["the cat sat on the mat"] * 50), 300)
    torch.manual_seed(0)
    spec = Spec("text", (17,), extra={"vocabulary": words.size, "tokenizer": words.to_json()})
    model = build(Llama, spec, dict(Llama.recipes["tiny"].model))
    weights, config = model.to_reference()
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(words.inner.to_str())
    save_file(weights, folder / "model.safetensors")
    run = genloom.import_("llama", folder, tmp_path / "run")
    texts = genloom.sample(run, 2, prompt="the", length=8, seed=3)
    assert texts == model.eval().sample(2, prompt="the", length=8, seed=3) and len(set(texts)) == 2


SIZES = {  # Radford et al. 2019; counted by transformers
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


def parameters(recipe: str) -> int:
    options = dict(GPT.recipes[recipe].model)
    with torch.device("meta"):
        model = build(GPT, Spec("text", (options["context"] + 1,), extra={"vocabulary": 50_257}), options)
    assert all(p.is_meta for p in model.parameters())
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("recipe", SIZES)
def test_the_sizes_of_gpt2(recipe):
    assert parameters(recipe) == SIZES[recipe]


@pytest.mark.parametrize("recipe", [r for r in GPT.recipes if r.startswith("gpt3")])
def test_the_sizes_of_gpt3(recipe):
    m = GPT.recipes[recipe].model
    w, inner = m["width"], m["heads"] * m["head"]
    block = 4 * w * inner + 3 * inner + w + 8 * w * w + 5 * w + 4 * w  # attention, feed-forward, two norms
    assert parameters(recipe) == (50_257 + 2048) * w + m["layers"] * block + 2 * w
    billions = float(recipe.removeprefix("gpt3-").rstrip("mb")) * (1e-3 if recipe.endswith("m") else 1)
    assert parameters(recipe) / 1e9 == pytest.approx(billions, rel=0.13)  # the paper's own round numbers


def test_bands_alternate_with_layers_that_see_all():
    spec = Spec("text", (33,), extra={"vocabulary": 11})
    torch.manual_seed(0)
    model = build(GPT, spec, {"layers": 2, "width": 16, "heads": 2, "context": 32, "band": 4}).eval()
    dense = build(GPT, spec, {"layers": 2, "width": 16, "heads": 2, "context": 32}).eval()
    dense.load_state_dict(model.state_dict())
    ids = torch.randint(0, 11, (1, 12))
    with torch.no_grad():
        a, b = model.network(ids), dense.network(ids)
    torch.testing.assert_close(a[:, :4], b[:, :4])
    assert not torch.allclose(a[:, 8:], b[:, 8:])


def test_documents_do_not_see_each_other():
    torch.manual_seed(0)
    model = build(find("llama"), Spec("text", (9,), extra={"vocabulary": 11}), {"layers": 2, "width": 16, "heads": 2})
    ids = torch.randint(0, 11, (1, 9))
    together = {
        "text": ids,
        "document": torch.tensor([[0] * 4 + [1] * 4]),
        "weight": torch.tensor([[0.0] * 4 + [1.0] * 4]),
    }
    alone = F.cross_entropy(model.network(ids[:, 4:8])[0], ids[0, 5:])
    # turned positions tell distances alone: the second document is as it would be by itself
    torch.testing.assert_close(model.loss(together, "all")["nats"][0], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"width": 30, "heads": 4}, "width of 30"), ({"width": 32, "heads": 4, "groups": 3}, "cannot share 3")],
)
def test_heads_that_do_not_share_out(options, said):
    with pytest.raises(UserError, match=said):
        build(Llama, Spec("text", (9,), extra={"vocabulary": 11}), options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rope_scaling": {"rope_type": "llama3"}}, "scales them"),
        ({"hidden_act": "gelu"}, "gate is SiLU"),
        ({"attention_bias": True}, "no biases"),
        ({"hidden_size": None}, "no 'hidden_size'"),
    ],
)
def test_another_kind_of_llama_is_refused(change, said):
    _, weights, case = golden("llama")
    config = {k: v for k, v in {**case["kwargs"], **change}.items() if v is not None}
    with pytest.raises(UserError, match=said):
        Llama.from_reference(weights, config)
