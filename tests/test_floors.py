"""The house stands as its plan says: floors, who may call backward, and no pickle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "genloom"
FILES = sorted(HOUSE.rglob("*.py"))
FLOORS = {
    0: ("errors", "parallel", "machine", "__init__"),
    1: ("core", "nn", "text", "objectives", "metrics"),
    2: ("models", "data", "run", "recorded", "reference", "gguf", "provenance", "seal"),
    3: (
        "plugins",
        "state",
        "transfer",
        "train",
        "origin",
        "generate",
        "again",
        "latents",
        "report",
        "monitor",
        "watch",
        "budget",
        "exporting",
        "naming",
        "policy",
        "private",
    ),
    4: (
        "auditing",
        "detect",
        "measure",
        "measure_audio",
        "measure_sound",
        "measure_speech",
        "measure_table",
        "measure_text",
        "measure_video",
        "measure_clips",
        "tasks",
        "harness",
        "request",
    ),
    5: ("api",),
    6: ("cli", "cli_data", "cli_safe", "forms", "serve", "__main__"),
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms of genloom that a file imports when it runs, type-checking blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(n)
        for b in ast.walk(tree)
        if isinstance(b, ast.If) and "TYPE_CHECKING" in ast.dump(b.test)
        for n in ast.walk(b)
    }
    rooms = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "genloom":
            rooms |= {node.module.split(".")[1]} if "." in node.module else {a.name for a in node.names}
        elif isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("genloom.")}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(HOUSE)))
def test_nothing_imports_upwards(path: Path) -> None:
    assert room(path) in FLOOR_OF, f"give {room(path)} a floor"
    for other in imported(path) - {"__version__"}:
        assert FLOOR_OF[other] <= FLOOR_OF[room(path)], f"{path.name} imports {other} from a higher floor"


def test_models_import_no_data_and_metrics_no_models() -> None:
    for path in FILES:
        rooms = imported(path)
        if room(path) == "models":
            assert not rooms & {"data", "run", "train"}, path
        if room(path) in ("metrics", "objectives", "nn"):
            assert not rooms & {"models", "data"}, path
        if room(path) == "train":
            assert "models" not in rooms, path


def test_only_the_loop_moves_parameters() -> None:
    for path in FILES:
        calls = [
            n.func.attr
            for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
        ]
        if room(path) != "train":
            assert "backward" not in calls, path
            assert "zero_grad" not in calls, path


def test_only_parallel_speaks_to_other_processes() -> None:
    for path in FILES:
        if room(path) != "parallel":
            assert "torch.distributed" not in path.read_text(encoding="utf-8"), path


def test_only_the_restricted_reader_unpickles() -> None:
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.name == "reference.py":  # official checkpoints, through a reader that can call what it lists
            used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
            assert {u for u in used if u.startswith("pickle.")} == {"pickle.Unpickler"}
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & {
                    n.split(".")[0] for n in names
                }, path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "numpy.load"):
                safe = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert safe.get("weights_only") == "True" or safe.get("allow_pickle") == "False", path
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("eval", "exec", "os.system"):
                raise AssertionError(f"{path} runs text as code")


def test_files_stay_readable() -> None:
    for path in FILES:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 420, path


def test_public_names_are_all_there() -> None:
    import genloom

    assert genloom.__all__ == sorted(genloom.__all__)
    for name in genloom.__all__:
        assert getattr(genloom, name) is not None
    assert "gan" in genloom.models() and "mnist" in genloom.data()
    assert set(genloom.__all__) >= {
        "fit",
        "sample",
        "evaluate",
        "load",
        "compare",
        "models",
        "data",
        "Model",
        "register",
    }
