"""What people do with a language model: forms, LoRA, tasks, folders and files of others, surprise and repeats."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import genloom
from genloom.cli import main
from genloom.core import Spec, build
from genloom.errors import UserError
from genloom.gguf import halves
from genloom.metrics.text import Repeats, surprise
from genloom.models.text.gpt import GPT
from genloom.models.text.llama import Llama
from genloom.nn.lora import LoRALinear
from genloom.provenance import read_label
from genloom.run import Run
from genloom.tasks import read_tasks, scores
from genloom.text.constrain import form
from genloom.text.tokenizer import Bytes, Pairs, Tokenizer

GOLDEN = Path(__file__).parent / "golden"
TEXT = "the cat sat on the mat, and the dog sat on the log. " * 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("language")
    (folder / "a.txt").write_text(TEXT)
    options = {"recipe": "tiny", "steps": 150, "lr": 1e-2, "quiet": True}
    return genloom.fit("gpt", folder / "a.txt", folder / "run", data_options={"tokenizer": "byte"}, **options)


# ── forms ────────────────────────────────────────────────────────────────────────────────────────────────────────────
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 4}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_text_keeps_to_a_pattern_and_to_a_schema(run: Run) -> None:
    for text in genloom.sample(run, 4, length=60, temperature=2.0, pattern="(cat|dog)[0-9]{2,3}!"):
        assert re.fullmatch("(cat|dog)[0-9]{2,3}!", text)
    for text in genloom.sample(run, 4, length=120, schema=json.dumps(SCHEMA)):
        found = json.loads(text)
        assert set(found) == {"name", "age"} and len(found["name"]) <= 4 and 0 <= found["age"] <= 99


@pytest.mark.parametrize("tokens", [Bytes(), Pairs.train(iter([TEXT]), 300)], ids=["byte", "bpe"])
def test_only_what_can_still_be_finished_is_allowed(tokens: Tokenizer) -> None:
    own = form(tokens, pattern="ab?")
    assert tokens.encode("a")[0] in own.allowed().nonzero().flatten().tolist()
    own.push(tokens.encode("a")[0])
    assert set(own.allowed().nonzero().flatten().tolist()) == {tokens.encode("b")[0], tokens.end}


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    """genloom.harness on the real lm-eval where it is there, else on its base class alone."""
    if importlib.util.find_spec("lm_eval") is None:
        stand_in = ModuleType("lm_eval.api.model")
        stand_in.LM = type("LM", (), {})  # type: ignore[attr-defined]
        for name in ("lm_eval", "lm_eval.api", "lm_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, stand_in)
    monkeypatch.delitem(sys.modules, "genloom.harness", raising=False)
    yield importlib.import_module("genloom.harness")
    sys.modules.pop("genloom.harness", None)


def test_the_evaluation_harness_asks_a_run(run: Run, harness: Any) -> None:
    asked = harness.Harness(run.folder)
    right, wrong = asked.loglikelihood([SimpleNamespace(args=("sat on ", said)) for said in ("the", "zzz")])
    assert right[1] and not wrong[1] and right[0] > wrong[0] + 3
    whole, answer = "the dog sat on the log. " * 5, ("sat on ", {"until": [" "], "max_gen_toks": 40})
    (rolled,) = asked.loglikelihood_rolling([SimpleNamespace(args=(whole,))])
    assert -200 < rolled < -0.5
    assert asked.generate_until([SimpleNamespace(args=answer)]) == ["the"]


def test_the_harness_asks_for_each_token_once(harness: Any) -> None:
    for length in range(2, 40):
        windows = harness.windows_of(list(range(length)), 8)
        asked = [t for tokens, count in windows for t in tokens[-count:]]
        assert asked == list(range(1, length))
        assert all(count < len(tokens) <= 9 for tokens, count in windows)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"schema": "{"}, "no JSON"),
        ({"schema": "[1]"}, "A JSON schema is an object"),
        ({"schema": {"type": "nothing"}}, "cannot be met"),
        ({"schema": {"type": "integer", "minimum": 3, "maximum": 2}}, "cannot be met"),
        ({"pattern": "(["}, "cannot be met"),
        ({"pattern": "a", "schema": {}}, "one of them"),
    ],
)
def test_a_form_that_is_none_or_cannot_be_met(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        form(Bytes(), **asked)


# ── LoRA ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_lora_begins_as_the_old_run_moves_alone_and_merges(run: Run, tmp_path: Path) -> None:
    given = {"recipe": "tiny", "quiet": True, "init": run, "config": {"lora": 2, "lora_targets": "qkv up"}}
    data = run.info["data"]["source"]
    tuned = genloom.fit("gpt", data, tmp_path / "tuned", steps=20, lr=1e-2, **given)
    old, new = genloom.load(run), genloom.load(tuned)
    base = {k: v for k, v in new.state_dict().items() if ".lora_" not in k}
    assert all(torch.equal(v, old.state_dict()[k]) for k, v in base.items())
    assert any(m.lora_b.abs().sum() > 0 for m in new.modules() if isinstance(m, LoRALinear))
    ids = torch.randint(0, 256, (2, 10))
    with torch.no_grad():
        assert not torch.allclose(new.network(ids), old.network(ids))
        torch.testing.assert_close(new.whole()(ids), new.network(ids), rtol=1e-4, atol=1e-5)
    back = GPT.from_reference(*new.to_reference())
    with torch.no_grad():
        torch.testing.assert_close(back.network(ids), new.network(ids), rtol=1e-4, atol=1e-5)


def test_lora_learns_by_muon_too_which_leaves_adamw_nothing(run: Run, tmp_path: Path) -> None:
    given = {"recipe": "tiny", "quiet": True, "init": run, "config": {"lora": 2}, "optimiser": "muon", "lr": 1e-2}
    for steps in (4, 8):  # the second goes on from the state of the first
        tuned = genloom.fit("gpt", run.info["data"]["source"], tmp_path / "tuned", steps=steps, **given)
    new = genloom.load(tuned)
    assert any(m.lora_b.abs().sum() > 0 for m in new.modules() if isinstance(m, LoRALinear))


def test_lora_on_a_layer_that_is_not_there() -> None:
    with pytest.raises(UserError, match="No layer is called 'gate': choose of down, out, qkv, up"):
        build(
            GPT,
            Spec("text", (9,), extra={"vocabulary": 5}),
            {"layers": 1, "width": 8, "heads": 1, "lora": 2, "lora_targets": "gate"},
        )


def test_items_longer_than_the_model_sees_are_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(UserError, match=r"Items of 100 tokens are longer than the 16 .* give --model.context 100 too"):
        genloom.fit("gpt", tmp_path / "a.txt", tmp_path / "run", recipe="tiny", data_options={"context": 100})
    assert not (tmp_path / "run").exists()


def test_a_question_is_asked_in_the_marks_of_a_chat(run: Run) -> None:
    tokens = Pairs.train(iter([TEXT]), 300)
    tokens.inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    spec = Spec("text", (65,), extra={"vocabulary": 302, "tokenizer": Pairs(tokens.inner.to_str()).to_json()})
    model = build(GPT, spec, {"layers": 1, "width": 8, "heads": 1, "context": 64})
    marked = "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    assert model.sample(2, prompt="the cat", chat=True, length=8) == model.sample(2, prompt=marked, length=8)
    with pytest.raises(UserError, match="no marks around messages"):
        genloom.sample(run, 1, prompt="the cat", chat=True)
    with pytest.raises(SystemExit):
        main(["sample", str(run.folder), "--prompt", "the cat", "--chat"])


def test_each_token_is_heard_with_its_log_probability(run: Run) -> None:
    model, heard = genloom.load(run), []
    with torch.no_grad():
        text = model.sample(2, prompt="the cat", length=6, hear=lambda *said: heard.append(said))[1]
    mine = [(token, log) for row, token, log in heard if row == 1]
    assert bytes(token for token, _ in mine).decode() == text
    (score,) = scores(model, [("the cat", text)])
    assert sum(log for _, log in mine) == pytest.approx(score.log, abs=0.1)  # bf16 where it is fast


# ── tasks ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_choices_are_scored_by_their_log_probability(run: Run, tmp_path: Path) -> None:
    model = genloom.load(run)
    (score,) = scores(model, [("the cat sat", " on")])
    ids = torch.tensor([list(b"the cat sat on")])
    with torch.no_grad():
        logs = model.network(ids[:, -16:-1]).log_softmax(2)[0]
    assert score.log == pytest.approx(
        float(logs[-3:].gather(1, ids[0, -3:, None]).sum()), abs=0.05
    )  # bf16 where it is fast
    rows = [
        {"context": "the cat", "choices": [" sat", " zzz"], "answer": 0},
        {"context": "the dog", "choices": ["!!!!", " sat"], "answer": " sat"},
        {"context": "sat on ", "completion": "the"},
    ]
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = {m["name"]: m["value"] for m in genloom.evaluate_tasks(run, path, shots=[0, 1])["metrics"]}
    assert found["acc-tasks@0"] == found["acc-bytes-tasks@0"] == found["exact-tasks@0"] == 1.0
    assert {"acc-tasks@1", "nats-tasks@1"} <= set(found)
    with pytest.raises(UserError, match="3 examples before each task need more than 3 tasks"):
        genloom.evaluate_tasks(run, path, shots=[3])


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"context": "a"}',
        '{"context": "a", "choices": ["b", "c"], "answer": 2}',
        '{"context": 1, "completion": "b"}',
    ],
)
def test_a_line_that_is_no_task_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"context": "a", "completion": "b"}\n' + line)
    with pytest.raises(UserError, match=r"tasks.jsonl:2 is no task"):
        read_tasks(path)


# ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_surprise_is_over_tokens_and_in_bits(run: Run) -> None:
    found = {
        m["name"]: m["value"] for m in genloom.evaluate(run, metrics=["nats", "perplexity", "bits"], n=10)["metrics"]
    }
    nats = found["nats@16"]
    assert 0 < nats < 1.0
    assert found["perplexity@16"] == pytest.approx(math.exp(nats)) and found["bits-per-byte@16"] == pytest.approx(
        nats / math.log(2), rel=1e-3
    )
    assert surprise(torch.tensor([1.0, 5.0]), torch.tensor([1.0, 2.0])).value == 2.0


def test_the_longest_stretch_that_stands_in_the_training_text() -> None:
    search = Repeats(b"It was the best of times, it was the worst of times, it was the age of wisdom.")
    assert search.longest(0, "He said: the worst of times, it was my fault.").text == " the worst of times, it was "
    assert search.longest(1, "nothing of this is there at all").length == 0
    glued = search.longest(2, "it was the best of times, it was the age of wisdom.")  # of two places: no one stretch
    assert glued.text == "st of times, it was the age of wisdom."


# ── others' files, and the command line ──────────────────────────────────────────────────────────────────────────────
def write_gguf(path: Path) -> dict[str, torch.Tensor]:
    """The golden Llama as llama.cpp's converter writes it: queries and keys with their halves interleaved."""
    weights, config = (
        load_file(GOLDEN / "lm_llama_weights.safetensors"),
        json.loads((GOLDEN / "lm_llama.json").read_text())["kwargs"],
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_token_list([f"w{i}" for i in range(config["vocab_size"])])
    writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for key, value in weights.items():
        heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}.get(
            key.split(".")[-2]
        )
        if heads:
            value = value.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(names.get_name(key, (".weight",)), value.contiguous().numpy().astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return load_file(GOLDEN / "lm_llama.safetensors")


def test_a_gguf_file_gives_the_references_logits(tmp_path: Path) -> None:
    io = write_gguf(tmp_path / "small.gguf")
    model = genloom.load(genloom.import_("llama", tmp_path / "small.gguf", tmp_path / "run"))
    assert isinstance(model, Llama)
    with torch.no_grad():
        torch.testing.assert_close(model.network(io["input_ids"]), io["logits"], rtol=0, atol=1e-4)


def test_a_gguf_file_cut_short_or_of_another_kind(tmp_path: Path) -> None:
    whole = tmp_path / "small.gguf"
    write_gguf(whole)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:3000])
    (tmp_path / "none.gguf").write_bytes(b"nothing of the kind")
    for name in ("cut.gguf", "none.gguf"):
        with pytest.raises(UserError, match="not a whole GGUF file"):
            genloom.import_("llama", tmp_path / name, tmp_path / "run")


def test_halves_undo_pairs() -> None:
    weight = torch.arange(24.0).view(12, 2)
    paired = weight.unflatten(0, (3, 2, 2)).transpose(1, 2).flatten(0, 2)
    assert torch.equal(halves(paired, 3), weight)


def test_text_on_the_screen_and_in_files(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sample", str(run.folder), "--prompt", "the cat", "--length", "20", "--temperature", "0"])
    assert capsys.readouterr().out.startswith("the cat ")
    main(["sample", str(run.folder), "-n", "2", "--length", "5", "--out", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").glob("*.txt"))) == 2
    given = ["--seed", "1", "--length", "60", "--temperature", "0", "--prompt", "the cat", "--stop"]
    main(["sample", str(run.folder), *given, "\\n\\\\", "--out", str(tmp_path / "stop")])
    origin = read_label(tmp_path / "stop" / "0000.txt")
    assert origin and origin.conditions["stop"] == "\n\\" and origin.command.endswith("--stop '\\n\\\\'")
    main(["export", str(run.folder), str(tmp_path / "theirs")])
    again = genloom.import_("gpt", tmp_path / "theirs", tmp_path / "again")
    assert genloom.load(again).vocabulary == 257
    for words, said in (
        (["--top-p", "0"], "top_p is above 0"),
        (["--length", "0"], "1 token or more"),
        (["--presence", "nan"], "presence is nan"),
        (["--frequency", "inf"], "frequency is inf"),
        (["--frames", "3"], "--frames does not go with text on the screen"),
        (["--form", "gif"], "--form does not go with text"),
        (["--beside"], "--beside does not go with text"),
        (["--visible-label"], "--visible-label does not go with text"),
        (["--balance", "label"], "--balance is of pictures and tables"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["sample", str(run.folder), *words])
        assert stopped.value.code == 2 and said in capsys.readouterr().err
