"""Between text and tokens: tokenizers, logits, stop strings, and the decoder that must not mix rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from genloom.errors import UserError
from genloom.nn.transformer import Plan, Transformer
from genloom.text import logits as processing
from genloom.text import tokenizer as tokenizers
from genloom.text.decode import Window, draw
from genloom.text.logits import Sampling
from genloom.text.stops import Stream, escaped, unescaped
from genloom.text.tokenizer import Bytes, Characters, Pairs

GOLDEN = Path(__file__).parent / "golden"
IO = load_file(GOLDEN / "logits.safetensors")
CALLS = json.loads((GOLDEN / "logits.json").read_text())["calls"]
TEXTS = ["To be, or not to be", "大江东去，浪淘尽", "naïve 👩‍🚀 rocket", "", "  spaces\n\nand lines\t"]


@pytest.mark.parametrize("tokens", [Characters.of(TEXTS), Bytes(), Pairs.train(iter(TEXTS), 300)], ids=lambda t: t.kind)
def test_an_array_of_tokens_is_the_tokens(tokens: tokenizers.Tokenizer) -> None:
    for text in TEXTS:
        assert tokens.array(text).tolist() == tokens.encode(text)
    if isinstance(tokens, Characters):
        for unknown in ("to é", "\U0010ffff"):
            with pytest.raises(UserError, match=f"character {re.escape(repr(unknown[-1]))} is not among"):
                tokens.array(unknown)


# ── logits ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def ours(call: dict) -> torch.Tensor:
    scores, ids = IO["scores"], IO["input_ids"]
    seen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, ids, True)
    if "generation_config" in call:
        given = {k: v for k, v in call["generation_config"].items() if k != "do_sample"}
        given["repetition"] = given.pop("repetition_penalty", 1.0)
        return Sampling(**given).process(scores, seen=seen)
    for name, how in call["steps"]:
        least = how.get("min_tokens_to_keep", 1)
        match name:
            case "TemperatureLogitsWarper":
                scores = scores / how["temperature"]
            case "TopKLogitsWarper":
                scores = processing.top_k(scores, max(how["top_k"], least))
            case "TopPLogitsWarper":
                scores = processing.top_p(scores, how["top_p"], least)
            case "MinPLogitsWarper":
                scores = processing.min_p(scores, how["min_p"], least)
            case "RepetitionPenaltyLogitsProcessor":
                scores = processing.repetition_penalty(scores, seen, how["penalty"])
            case _:
                raise AssertionError(name)
    return scores


@pytest.mark.parametrize("name", CALLS)
def test_logits_are_processed_as_transformers_does(name):
    found, wanted = ours(CALLS[name]), IO[f"out.{name}"]
    same = found.isneginf() == wanted.isneginf()
    tie = torch.zeros_like(same)
    tie[2, [3, 11]] = True  # two equal top logits: either may stay
    assert (same | tie).all()
    both = found.isfinite() & wanted.isfinite()
    torch.testing.assert_close(found[both], wanted[both], rtol=1e-6, atol=1e-6)


def test_drawing_takes_the_likeliest_at_0_and_follows_the_odds_else():
    scores = torch.tensor([[0.0, 1.0, 3.0, -torch.inf]])
    assert Sampling(temperature=0).draw(scores, torch.zeros(1)).item() == 2
    drawn = Sampling().draw(scores.expand(20_000, 4), torch.rand(20_000, generator=torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, scores[0].softmax(0), rtol=0, atol=0.02)
    assert Sampling().draw(scores, torch.ones(1)).item() == 2  # never what was taken away


class OnApple(torch.Tensor):
    """A tensor as on Apple's GPU, which has no float64."""

    device = property(lambda self: torch.device("mps"))  # type: ignore[assignment]

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_a_device_without_float64_draws_the_same():
    scores, chance = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 50)
    drawn = Sampling().draw(scores.as_subclass(OnApple), chance)
    assert type(drawn) is torch.Tensor and torch.equal(drawn, Sampling().draw(scores, chance))


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_p": 0.0},
        {"top_p": 2.0},
        {"top_k": -1},
        {"temperature": -1.0},
        {"min_p": 2.0},
        {"repetition": 0.0},
        {"presence": float("nan")},
        {"frequency": float("inf")},
    ],
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        Sampling(**wrong)


# ── tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────────
def made() -> list[tokenizers.Tokenizer]:
    return [Bytes(), Characters.of(TEXTS), Pairs.train(iter(TEXTS * 20), 400)]


@pytest.mark.parametrize("index", range(3))
def test_text_comes_back_and_a_tokenizer_travels(index):
    own = made()[index]
    again = tokenizers.from_json(json.loads(json.dumps(own.to_json())))
    for text in TEXTS:
        ids = own.encode(text)
        assert own.decode(ids) == text and again.encode(text) == ids
        assert all(0 <= i < own.size for i in ids) and own.end not in ids
    assert again.size == own.size and again.end == own.end and own.piece(own.end) == b""


@given(st.text())
def test_bytes_know_every_text(text):
    text = text.encode("utf-8", "ignore").decode()
    assert Bytes().decode(Bytes().encode(text)) == text


def test_an_unknown_character_is_named():
    with pytest.raises(UserError, match="'ß' is not among the 3"):
        Characters("abc").encode("aß")


@pytest.mark.parametrize(
    ("typed", "held"), [(r"\n\n", "\n\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), ("\\", "\\"), (r"\d", r"\d")]
)
def test_a_stop_string_as_it_is_typed(typed: str, held: str) -> None:
    assert unescaped(typed) == held and unescaped(escaped(held)) == held and "\n" not in escaped(held)


# ── text as it grows ─────────────────────────────────────────────────────────────────────────────────────────────────
@given(st.text(alphabet="ab", max_size=12), st.lists(st.integers(1, 4), max_size=12))
def test_a_stop_string_is_found_however_the_tokens_fall(text, cuts):
    stream, shown, at = Stream(["aab"]), "", 0
    for cut in [*cuts, len(text)]:
        shown += stream.push(text[at : at + cut].encode())
        assert text.startswith(shown) and "aab" not in shown
        at += cut
    shown += stream.close()
    assert shown == text.partition("aab")[0] and stream.stopped == ("aab" in text)


@given(st.text(min_size=1), st.integers(1, 3))
def test_characters_are_held_back_until_whole(text, size):
    text = text.encode("utf-8", "ignore").decode()
    raw, stream, shown = text.encode(), Stream(), ""
    for i in range(0, len(raw), size):
        shown += stream.push(raw[i : i + size])
        assert text.startswith(shown)
    assert shown + stream.close() == text


# ── the decoder ──────────────────────────────────────────────────────────────────────────────────────────────────────
PLANS = {
    "gpt": Plan(23, 16, 3, 4, 4, 4, 32, positions=12, norm="layer", feed="gelu", bias=True),
    "llama": Plan(23, 16, 3, 4, 2, 4, 32, qk_norm=True),
    "banded": Plan(23, 16, 4, 2, 2, 8, 32, positions=12, band=4),
}


def network(name: str) -> Transformer:
    torch.manual_seed(0)
    net = Transformer(PLANS[name]).eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_cached_and_batched_equal_whole_and_single(name):
    net = network(name)
    rows = [[1, 2, 3, 4, 5], [7], [9, 8, 7]]
    later = torch.randint(0, 23, (4, 3), generator=torch.Generator().manual_seed(1)).tolist()
    window, alone = Window(net, rows, 12), [Window(net, [row], 12) for row in rows]
    for step in range(5):
        for i, row in enumerate(rows):
            whole = net(torch.tensor([row]))[0, -1]
            torch.testing.assert_close(window.logits[i], whole, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(alone[i].logits[0], whole, rtol=1e-5, atol=1e-5)
        if step < 4:
            rows = [[*row, t] for row, t in zip(rows, later[step], strict=True)]
            window.push(later[step])
            for w, t in zip(alone, later[step], strict=True):
                w.push([t])


@pytest.mark.parametrize("name", PLANS)
def test_rows_do_not_depend_on_their_neighbours_past_the_context(name):
    net, prompts = network(name), [[1, 2, 3, 4, 5], [7], list(range(20))]

    def texts(prompts: list[list[int]], start: int) -> list[list[int]]:
        out: list[list[int]] = [[] for _ in prompts]
        how = {"context": 12, "limit": 30, "ends": frozenset([22]), "seed": 5, "start": start}
        for drawn in draw(net, prompts, Sampling(top_k=5, repetition=1.2, frequency=0.1), **how):
            for row, token in zip(drawn.rows, drawn.tokens, strict=True):
                out[row].append(token)
        return out

    together = texts(prompts, 0)
    assert together == [texts([p], i)[0] for i, p in enumerate(prompts)]
    assert max(map(len, together)) > 12


def test_a_step_is_the_models_own_log_probability():
    net = network("gpt")
    drawn = next(draw(net, [[1, 2]], Sampling(top_k=1), context=12, limit=1, ends=frozenset()))
    with torch.no_grad():
        logs = net(torch.tensor([[1, 2]]))[0, -1].log_softmax(0)
    assert drawn.tokens == [int(logs.argmax())] and drawn.logs[0] == pytest.approx(float(logs.max()), abs=1e-5)
