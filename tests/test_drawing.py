"""A network arranged for drawing: the same tokens, with autocast and without, and the network as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from genloom.nn.attention import attend
from genloom.nn.drawing import FewRows, for_drawing
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
        assert sum(isinstance(m, FewRows) for m in quick.modules()) == 9
        assert quick.tokens.weight is whole.tokens.weight
        found = quick(ids).float()
    spread = exact.std()
    assert (found - exact).abs().max() < 0.05 * spread
    assert torch.equal(whole(ids), exact)


@pytest.mark.parametrize("rows", [1, 3, 40])
@torch.inference_mode()
def test_without_autocast_the_same_logits_from_the_same_weights(rows: int) -> None:
    whole = network(PLAN, lora=True)
    quick, ids = for_drawing(whole), torch.randint(0, 23, (rows, 6))
    torch.testing.assert_close(quick(ids), whole(ids), rtol=1e-5, atol=1e-6)
    assert quick.blocks[0].feed.up.weight.data_ptr() == whole.blocks[0].feed.up.weight.data_ptr()


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
