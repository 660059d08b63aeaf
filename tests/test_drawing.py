"""A network arranged for drawing: the same tokens, with autocast and without, and the network as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genloom.nn.attention import attend
from genloom.nn.drawing import Arranged, for_drawing
from genloom.nn.lora import add_lora
from genloom.nn.transformer import Plan, Transformer

PLAN = Plan(23, 32, 2, 4, 2, 8, 48, positions=12, norm="layer", feed="gelu", bias=True)


def network(plan: Plan, lora: bool = False) -> Transformer:
    torch.manual_seed(0)
    made = Transformer(plan).eval()
    if lora:
        add_lora(made, 4, "qkv out", 8.0)
        for name, p in made.named_parameters():
            torch.nn.init.normal_(p, 0, 0.05) if "lora_b" in name else None
    return made


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("plan", [PLAN, replace(PLAN, tied=False, positions=0, norm="rms", feed="swiglu", bias=False)])
@torch.inference_mode()
def test_the_same_logits_as_autocast(plan: Plan, lora: bool, rows: int) -> None:
    whole = network(plan, lora)
    ids = torch.randint(0, 23, (rows, 6))
    exact = whole(ids)
    with torch.autocast("cpu", torch.bfloat16):
        quick = for_drawing(whole)
        assert sum(isinstance(m, Arranged) for m in quick.modules()) == 9
        assert quick.tokens.weight is whole.tokens.weight
        found = quick(ids).float()
    spread = exact.std()
    assert (found - exact).abs().max() < 0.05 * spread
    assert torch.equal(whole(ids), exact)


@pytest.mark.parametrize("rows", [1, 3, 40])
@torch.inference_mode()
def test_without_autocast_the_same_logits(rows: int) -> None:
    whole = network(PLAN, lora=True)
    quick, ids = for_drawing(whole), torch.randint(0, 23, (rows, 6))
    torch.testing.assert_close(quick(ids), whole(ids), rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_was_arranged_is_kept_until_a_weight_changes() -> None:
    whole, ids = network(PLAN), torch.randint(0, 23, (2, 6))
    first = for_drawing(whole)
    assert for_drawing(whole) is first
    with torch.autocast("cpu", torch.bfloat16):
        assert for_drawing(whole) is not first
    whole.blocks[1].feed.down.weight.mul_(2)
    torch.testing.assert_close(for_drawing(whole)(ids), whole(ids), rtol=1e-5, atol=1e-6)
    add_lora(whole, 4, "qkv", 8.0)
    whole.blocks[0].attention.qkv.lora_b.normal_()
    torch.testing.assert_close(for_drawing(whole)(ids), whole(ids), rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_without_memory_for_a_copy_the_network_itself_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genloom.nn.drawing.memory_free", lambda: 1000)
    whole = network(PLAN)
    assert for_drawing(whole) is whole
    with torch.autocast("cpu", torch.bfloat16):
        assert not any(m.packed for m in for_drawing(whole).modules() if isinstance(m, Arranged))


@pytest.mark.parametrize("keys", [1, 24, 600])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
@torch.inference_mode()
def test_one_query_attends_as_the_last_of_many_does(masked: bool, groups: int, keys: int) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, keys, 8, generator=g) for h in (4, groups, groups))
    mask = (torch.rand(2, 1, 1, keys, generator=g) > 0.5) | (torch.arange(keys) == 0) if masked else None
    wide = None if mask is None else mask.expand(2, 1, keys, keys)
    torch.testing.assert_close(attend(q[:, :, -1:], k, v, mask), attend(q, k, v, wide)[:, :, -1:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("keys", [24, 600])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("look", ["all", "causal", "mask"])
def test_training_in_bf16_attends_as_fp32_does(look: str, groups: int, keys: int) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, keys, 8, generator=g) for h in (4, groups, groups))
    mask = (torch.rand(2, 1, keys, keys, generator=g) > 0.5) | torch.eye(keys, dtype=torch.bool)
    how = {"mask": mask if look == "mask" else None, "causal": look == "causal"}
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        seen = attend(*given, **how)
        seen.float().square().sum().backward()
        found.append([seen.detach().float(), *(x.grad.float() for x in given)])
    for exact, half in zip(*found, strict=True):
        assert (exact - half).norm() < 0.02 * exact.norm()
