"""Official checkpoints -> tensors and options. Nothing in a file is executed: what is not a tensor's parts is refused.

Formats: safetensors; a folder of Hugging Face's transformers; GGUF; PyTorch's `torch.save` (state dicts, nested or not); NVIDIA's StyleGAN pickles, whose networks are
read as the tensors and constructor arguments that they hold, and whose embedded source code is never looked at.
"""

from __future__ import annotations

import io
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from genloom import gguf
from genloom.errors import UserError
from genloom.run import read_json
from genloom.text import tokenizer

LARGEST = 16 << 30  # bytes
ADVICE = ("Weights only load failed", "Check the documentation", "Please file an issue")  # torch's, of no use here


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by dotted name, and the options that the file itself tells (often none).

    Raises UserError for a missing, damaged, or hostile file.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise UserError(f"There is no checkpoint '{path}'.")
    if path.stat().st_size > LARGEST:
        raise UserError(f"'{path}' is larger than {LARGEST >> 30} GiB: that is no checkpoint known here.")
    readers = {".gguf": gguf.read, ".safetensors": _safetensors, ".pkl": _networks, ".pickle": _networks}
    return readers.get(path.suffix, _state_dict)(path)


def _folder(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A folder as Hugging Face's transformers keeps a model: config.json, weights in one file or several, a tokenizer."""
    if not (path / "config.json").is_file():
        raise UserError(f"'{path}' holds no config.json: give the folder that it lies in, or a checkpoint file.")
    told = read_json(path / "config.json")
    indices = [i for i in ("model.safetensors.index.json", "pytorch_model.bin.index.json") if (path / i).is_file()]
    if indices:
        names = sorted(set(map(str, read_json(path / indices[0]).get("weight_map", {}).values())))
    else:
        names = [n for n in ("model.safetensors", "pytorch_model.bin") if (path / n).is_file()][:1]
    if not names:
        raise UserError(f"'{path}' holds no weights: model.safetensors or pytorch_model.bin.")
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= read_checkpoint(path / Path(name).name)[0]  # the name alone: an index leads nowhere else
    ends: Any = told.get("eos_token_id") or None
    try:
        vocabulary = tokenizer.at(path, ends[0] if isinstance(ends, list) else ends)
    except UserError:
        return weights, told
    return weights, {**told, "tokenizer": vocabulary.to_json()}


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("config")
            return {k: file.get_tensor(k) for k in file.keys()}, json.loads(told) if told else {}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise UserError(f"'{path}' is not a whole safetensors file: {error}") from None


def _state_dict(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parser meets
        if asked := re.search(r"GLOBAL (\S+)", str(error)):
            raise _refused(path, asked[1]) from None
        lines = [line for line in str(error).splitlines() if line and not line.startswith(ADVICE)]
        why = (lines or [type(error).__name__])[0][:120].rstrip(".")
        raise UserError(f"'{path}' is not a checkpoint of plain tensors, and was not read: {why}.") from None
    weights = dict(_flat(held)) if isinstance(held, Mapping) else {}
    if not weights:
        raise UserError(f"'{path}' holds no tensors.")
    return weights, {}


def _refused(path: Path, asked: object) -> UserError:
    return UserError(
        f"'{path}' was refused: it asks for {asked}, which is not part of a tensor. Nothing in it was run."
    )


def _flat(held: Mapping[Any, Any], prefix: str = "") -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for key, value in held.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, Tensor):
            found.append((f"{prefix}{key}", value))
    return found


# ── NVIDIA's pickles ─────────────────────────────────────────────────────────────────────────────────────────────
class HostileError(Exception):
    """The file asks for something that is not a tensor's part."""


class Record:
    """An object of theirs as what was stored of it: no code, only `__dict__`."""

    def __init__(self, *args: Any, **kwargs: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class Options(dict[str, Any]):
    """Their dictionary with attributes, as a dictionary."""

    def __setstate__(self, state: Any) -> None:
        self.update(state)


def _network(meta: Mapping[str, Any]) -> Record:
    """What their persistent objects are made from; `module_src`, the source code in it, is dropped."""
    record = Record()
    record.__dict__.update(meta.get("state") or {})
    return record


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, requires_grad: bool, hooks: Any) -> Tensor:
    return data


def _scalar(kind: Record, data: bytes) -> Any:
    """A numpy number. Raises HostileError for what is not one."""
    dtype = np.dtype(str(kind.args[0]))
    if dtype.kind not in "fiub" or len(data) != dtype.itemsize:
        raise HostileError(f"numpy data of type '{dtype}'")
    return np.frombuffer(data, dtype)[0].item()


MAKERS: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _network,
    ("dnnlib.util", "EasyDict"): Options,
    ("numpy", "dtype"): Record,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
}


class Reader(pickle.Unpickler):
    """An unpickler that can call what MAKERS lists, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in MAKERS:
            return MAKERS[module, name]
        if module == "torch" and isinstance(kind := getattr(torch, name, None), torch.dtype):
            return kind
        if module.startswith("torch.nn.modules."):
            return Record
        raise HostileError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise HostileError("a persistent object")


def _networks(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The networks of a StyleGAN pickle: `G_ema.…` and `D.…`, and the arguments that each was made with."""
    try:
        with path.open("rb") as file:
            held = Reader(file).load()
    except HostileError as error:
        raise _refused(path, error) from None
    except Exception as error:  # a damaged pickle raises anything
        raise UserError(f"'{path}' is not a whole pickle: {type(error).__name__}: {str(error)[:100]}") from None
    networks = {k: held[k] for k in ("G_ema", "D") if isinstance(held, Mapping) and isinstance(held.get(k), Record)}
    if not networks:
        raise UserError(f"'{path}' holds no network called G_ema or D.")
    weights = dict(_flat({name: _nested(record) for name, record in networks.items()}))
    return weights, {name: _plain(vars(record).get("_init_kwargs", {})) for name, record in networks.items()}


def _nested(record: Record) -> dict[str, Any]:
    """A module's parameters and buffers by name, and those of the modules in it."""
    held = vars(record)
    inner = {k: _nested(child) for k, child in held.get("_modules", {}).items() if isinstance(child, Record)}
    return {**held.get("_parameters", {}), **held.get("_buffers", {}), **inner}


def _plain(value: Any) -> Any:
    """Numbers, words, lists and dictionaries as they are; anything else by its name."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)
