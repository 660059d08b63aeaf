"""Official checkpoints become runs without being run; fits start from earlier runs."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from test_models_stylegan import golden

import genloom
from genloom.cli import main
from genloom.errors import UserError
from genloom.reference import read_checkpoint


class EasyDict(dict[str, Any]):
    __module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: Any) -> None: ...


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Network(torch.nn.Module):
    """Stands in for one of NVIDIA's: pickled as theirs are, source code and all."""

    def __reduce__(self) -> Any:  # type: ignore[override]
        meta = EasyDict(
            type="class", version=6, module_src="raise SystemExit(1)", class_name="Net", state=self.__dict__
        )
        return _reconstruct_persistent_obj, (meta,)


def network(weights: dict[str, torch.Tensor], kwargs: dict[str, Any]) -> Network:
    whole = Network()
    whole._init_kwargs = EasyDict(kwargs)  # type: ignore[assignment]
    whole.gain = np.sqrt(2)  # type: ignore[assignment]
    for name, value in weights.items():
        *path, last = name.split(".")
        module = whole
        for part in path:
            if part not in module._modules:
                module.add_module(part, Network())
            module = module.get_submodule(part)  # type: ignore[assignment]
        if last in ("w_avg", "noise_const", "resample_filter"):
            module.register_buffer(last, value)
        else:
            module.register_parameter(last, torch.nn.Parameter(value))
    return whole


@pytest.fixture
def theirs() -> Iterator[None]:
    """Their modules, by the names under which pickles ask for them."""
    names: dict[str, dict[str, Any]] = {
        "dnnlib": {},
        "torch_utils": {},
        "dnnlib.util": {"EasyDict": EasyDict},
        "torch_utils.persistence": {},
    }
    names["torch_utils.persistence"]["_reconstruct_persistent_obj"] = _reconstruct_persistent_obj
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
    yield
    for name in names:
        del sys.modules[name]


def official(path: Path) -> dict[str, torch.Tensor]:
    """A pickle as NVIDIA publishes them, of golden weights; returns the golden inputs and outputs."""
    weights, config, io = golden("stylegan2_g_cond")
    d_weights, d_config, _ = golden("stylegan2_d_resnet_cond")
    nets = {"G": None, "D": network(d_weights, d_config["kwargs"]), "G_ema": network(weights, config["kwargs"])}
    path.write_bytes(pickle.dumps({**nets, "training_set_kwargs": EasyDict(path="faces.zip"), "augment_pipe": None}))
    return io


def test_an_official_pickle_becomes_a_run(theirs: None, tmp_path: Path) -> None:
    io = official(tmp_path / "net.pkl")
    with pytest.raises(UserError, match="different 'clamp'"):  # the two golden networks differ in it
        genloom.import_("stylegan2", tmp_path / "net.pkl", tmp_path / "none")
    weights, told = read_checkpoint(tmp_path / "net.pkl")
    assert told["G_ema"]["synthesis_kwargs"]["channel_max"] == 16
    save_file({k[6:]: v for k, v in weights.items() if k.startswith("G_ema.")}, tmp_path / "g.safetensors")
    (tmp_path / "g.json").write_text(json.dumps(told["G_ema"]))
    run = genloom.import_("stylegan2", tmp_path / "g.safetensors", tmp_path / "run", config=tmp_path / "g.json")
    model = genloom.load(run)
    torch.testing.assert_close(model.generator(io["z"], io["c"]).cpu(), io["img"], rtol=0, atol=1e-4)
    assert genloom.sample(run, 2, label=3, truncation=0.7).shape == (2, 3, 32, 32)
    assert "genloom import stylegan2" in json.loads((run.folder / "run.json").read_text())["command"]
    with pytest.raises(UserError, match="imported"):
        genloom.evaluate(run)


def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    for name, content in {
        "a.pkl": Bomb(),
        "b.pkl": {"G_ema": Bomb()},
        "c.pkl": {"G_ema": OrderedDict(x=Bomb())},
    }.items():
        (tmp_path / name).write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"refused: it asks for \w+\.system"):
            genloom.import_("stylegan2", tmp_path / name, tmp_path / "run")
    (tmp_path / "d.pth").write_bytes(pickle.dumps(Bomb()))
    torch.save({"a": Bomb()}, tmp_path / "e.pth")
    for name, why in {
        "d.pth": "not a checkpoint of plain tensors",
        "e.pth": r"refused: it asks for \w+\.system",
    }.items():
        with pytest.raises(UserError, match=why) as told:
            genloom.import_("biggan", tmp_path / name, tmp_path / "run")
        assert "weights_only" not in str(told.value)  # torch's advice is to run it
    assert not (tmp_path / "ran").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("attack", ["builtins eval", "builtins getattr", "torch load", "numpy load", "os system"])
def test_no_function_that_could_do_harm_can_be_asked_for(attack: str, tmp_path: Path) -> None:
    module, name = attack.split()
    (tmp_path / "x.pkl").write_bytes(f"c{module}\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(tmp_path / "x.pkl")


@given(st.binary(max_size=200))
def test_any_bytes_are_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("x.pkl", "x.pth", "x.safetensors"):
        (folder / name).write_bytes(content)
        with pytest.raises(UserError):
            read_checkpoint(folder / name)


def test_weights_alone_ask_for_their_options(tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.ones(2)}, tmp_path / "g.pth")
    with pytest.raises(UserError, match="--config"):
        genloom.import_("biggan", tmp_path / "g.pth", tmp_path / "run")
    with pytest.raises(UserError, match="no checkpoint"):
        genloom.import_("biggan", tmp_path / "absent.pth", tmp_path / "run")


def test_a_fit_starts_from_an_earlier_run(tmp_path: Path) -> None:
    options = {"recipe": "tiny", "quiet": True, "config": {"width": 12}}
    first = genloom.fit("dcgan", "digits", tmp_path / "first", steps=3, **options)
    second = genloom.fit(
        "dcgan", "digits", tmp_path / "second", steps=1, lr=1e-12, ema=0.0, init=first, recipe="tiny", quiet=True
    )
    assert second.info["config"]["width"] == 12 and "--init" in second.info["command"]
    a, _ = first.load_tensors("weights.safetensors")
    b, _ = second.load_tensors("weights.safetensors")
    trained = {k: v for k, v in a.items() if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    for key, value in trained.items():
        torch.testing.assert_close(b[key], value, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="holds a 'dcgan'"):
        genloom.fit("gan", "digits", tmp_path / "third", steps=1, init=first, quiet=True)
    with pytest.raises(UserError, match=r"--data.size 8 --data.channels grey"):
        genloom.fit("dcgan", "digits", tmp_path / "fourth", steps=1, init=first, quiet=True, data_options={"size": 16})


def test_other_classes_start_fresh(tmp_path: Path) -> None:
    weights, config, _ = golden("stylegan2_g_cond")
    save_file(weights, tmp_path / "g.safetensors")
    run = genloom.import_("stylegan2", tmp_path / "g.safetensors", tmp_path / "run", config=config["kwargs"])
    old = genloom.load(run)
    from genloom.core import Spec, build
    from genloom.transfer import start_from

    new = build(type(old), Spec("image", (3, 32, 32), ("a", "b")), old.config or run.info["config"])
    fresh = start_from(new, old)
    assert set(fresh) == {"generator.mapping.embed.weight", "discriminator.mapping.embed.weight"}
    assert torch.equal(new.generator.synthesis.b4.const, load_file(tmp_path / "g.safetensors")["synthesis.b4.const"])


@pytest.mark.parametrize(("name", "data"), [("stylegan2", "digits"), ("vid2vid", "streets")])
def test_the_command_goes_on_from_a_run_whose_hyper_parameters_hold_tuples(
    name: str, data: str, tmp_path: Path
) -> None:
    options = ["--recipe", "tiny", "--steps", "1", "--data.limit", "4", "--quiet"]
    options += ["--data.size", "32"] if name == "vid2vid" else []
    main(["fit", name, data, "--out", str(tmp_path / "a"), *options])
    main(["fit", name, data, "--out", str(tmp_path / "b"), "--init", str(tmp_path / "a"), *options])
    first, second = (json.loads((tmp_path / run / "run.json").read_text())["config"] for run in "ab")
    assert first == second and any(isinstance(value, list) for value in first.values())
