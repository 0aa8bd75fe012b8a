"""The house, held up by tests over `ast`: who may import whom, what nobody may do, and how large a room may grow."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "potstill"

# Imports go down only. Rooms on one floor do not know each other; the files of floor 3 are one room, the recipe.
FLOORS = {
    "core": 0,
    "redaction": 0,
    "environment": 0,
    "durable": 0.5,
    "divergences": 1,
    "students": 1,
    "data": 1,
    "compress": 2,
    "compressing": 5.3,
    "objectives": 2,
    "teachers": 2,
    "train": 2,
    "evaluate": 2,
    "policy": 2,
    "guard": 2,
    "export": 2,
    "report": 2,
    "config": 3,
    "recipe": 3,
    "recipes": 3,
    "traffic": 3.2,
    "estimate_rollout": 3.2,
    "estimate_compress": 3.2,
    "estimate": 3.5,
    "sizes": 3.5,
    "licensing": 3.7,
    "folder": 4,
    "recorded": 4.2,
    "release": 5.3,
    "answering": 5.4,
    "materials": 5.4,
    "cluster": 4,
    "assemble": 5,
    "bench": 4.5,
    "scribe": 5.5,
    "curating": 5.5,
    "perplexity": 4.7,
    "beside": 5.4,
    "vocabularies": 4.8,
    "replay": 4.7,
    "marking": 4.7,
    "proposing": 4.7,
    "augmenting": 4.9,
    "elsewhere": 4.7,
    "chains": 4.7,
    "ordering": 5.2,
    "onpolicy": 4.7,
    "stage": 5.5,
    "measure": 5.5,
    "publish": 5.5,
    "deployed": 5.6,
    "target": 5.6,
    "still": 5.7,
    "cutting": 5.75,
    "serving": 5.7,
    "comparison_page": 5.75,
    "tuning": 5.8,
    "comparison": 5.8,
    "cli": 6,
    "__main__": 7,
    "__init__": 7,
}
ONE_ROOM = {"config": "recipe", "recipes": "recipe"}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "misc", "manager", "managers"}
FOREIGN_TRAINERS = {"pytorch_lightning", "lightning", "trl", "accelerate", "ignite", "composer"}
PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
TORCH_FREE = [
    *("core.errors", "core.finding", "core.lineage", "core.example", "core.settings", "core.task", "core.record"),
    "core.progress",
    *(
        f"{room}.settings"
        for room in ("compress", "data", "students", "objectives", "teachers", "train", "evaluate", "export")
    ),
    *("cluster.settings", "cluster.job", "cluster.supervise", "cluster.member"),
    *("config", "recipe_rules", "recipe_text", "recipe_names", "recipe_faults", "recipe_overrides", "recipe_yaml"),
    *(
        "recipe_writing",
        "recipe_order",
        "recipe_augment",
        "recipe_compress",
        "recipe_places",
        "recipe_rollout",
        "recipe_tutors",
        "teachers.endpoint_settings",
    ),
    *("data.order_settings", "data.augment.settings", "data.curriculum.graph", "data.difficulty.schedule"),
    *("data.verify.settings", "data.curate.settings", "recipe_curating"),
    *("teachers.forms", "teachers.framing", "students.shape", "traffic", "estimate", "estimate_compress", "sizes"),
    *("guard.querylog", "guard.logformats", "guard.text", "guard.features"),
    *("guard.detector", "guard.simulate", "guard.pools", "guard.crowds", "guard.response", "guard.middleware"),
    *("guard.watermark", "guard.radioactivity", "guard.canaries", "guard.prada"),
    *("recipes.catalogue", "redaction", "environment", "cli.main", "cli.summary"),
    *(f"policy.{name}" for name in ("terms", "terms_table", "identify", "combine", "consent", "gate", "ledger")),
    *("students.stated", "data.licences", "licensing", "recorded", "release", "answering", "materials"),
]
LARGEST_FILE = 400
LARGEST_FUNCTION = 60


def modules() -> dict[str, ast.Module]:
    """Every module of ours by dotted name, without the leading `potstill.`; a folder goes by its own name."""
    found = {}
    for file in sorted(SOURCE.rglob("*.py")):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        name = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(name)] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


MODULES = modules()


def imported(tree: ast.AST, known: set[str]) -> set[str]:
    """Modules of ours that a tree imports anywhere in it, in functions too; `from potstill.x import y` may mean x.y."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("potstill")}
        elif isinstance(node, ast.ImportFrom) and node.module == "potstill":
            found |= {f"potstill.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("potstill."):
            for alias in node.names:
                deeper = f"{node.module}.{alias.name}"
                found.add(deeper if deeper.removeprefix("potstill.") in known else node.module)
    return {name.removeprefix("potstill.") for name in found}


def room(module: str) -> str:
    first = module.split(".")[0]
    return ONE_ROOM.get(first, "recipe" if first.startswith("recipe_") else first)


def misplaced(module: str, imports: set[str]) -> list[str]:
    """Imports of a module that go up, or sideways into another room."""
    here, wrong = room(module), []
    for name in imports:
        there = room(name)
        if there == here:
            continue
        if FLOORS[there] >= FLOORS[here]:
            wrong.append(f"{module} imports {name}")
    return wrong


def circle(graph: dict[str, set[str]]) -> list[str]:
    """One circle of imports, or nothing."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def outside(tree: ast.AST) -> set[str]:
    """Top-level packages that a tree imports, ours aside."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").split(".")[0])
    return found - {"potstill"}


def unsafe(tree: ast.AST) -> list[str]:
    """Whatever could run code from a file, and classes or imports that carry a foreign loop."""
    found = [f"imports {name}" for name in outside(tree) & (PICKLES | FOREIGN_TRAINERS)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("load", "save"):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "torch":
                found.append(f"line {node.lineno}: torch.{node.attr}")
        if isinstance(node, ast.ImportFrom) and node.module == "torch":
            found += [f"line {node.lineno}: torch.{a.name}" for a in node.names if a.name in ("load", "save")]
        if isinstance(node, ast.ImportFrom):
            found += [f"line {node.lineno}: imports {a.name}" for a in node.names if a.name.endswith("Trainer")]
        dangerous = isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle")
        if dangerous and isinstance(node.value, ast.Constant) and node.value.value:
            found.append(f"line {node.value.lineno}: {node.arg}=True")
        if isinstance(node, ast.ClassDef) and "Trainer" in node.name:
            found.append(f"line {node.lineno}: class {node.name}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            found.append(f"line {node.lineno}: {node.func.id}")
    return found


def too_large(tree: ast.Module) -> list[str]:
    """The file, and its functions, that are longer than a room should be."""
    lines = max((node.end_lineno or 0 for node in tree.body), default=0)
    found = [f"{lines} lines"] if lines > LARGEST_FILE else []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            size = (node.end_lineno or 0) - node.lineno + 1
            if size > LARGEST_FUNCTION:
                found.append(f"{node.name}: {size} lines")
    return found


GRAPH = {name: imported(tree, set(MODULES)) for name, tree in MODULES.items()}


def test_every_room_has_a_floor():
    assert {room(name) for name in MODULES} <= set(FLOORS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_and_never_to_a_sibling(module):
    assert misplaced(module, GRAPH[module]) == []


def test_no_circle():
    assert circle(GRAPH) == []


def test_folders_and_files_are_named_for_what_they_are():
    assert [name for name in MODULES if set(name.split(".")) & FORBIDDEN_NAMES] == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_unsafe(module):
    assert unsafe(MODULES[module]) == []


@pytest.mark.parametrize("module", MODULES)
def test_rooms_stay_small(module):
    assert too_large(MODULES[module]) == []


def test_divergences_are_mathematics_and_core_knows_no_models():
    for module, tree in MODULES.items():
        if room(module) in ("core", "divergences"):
            assert not outside(tree) & {"transformers", "datasets", "tokenizers"}, module


def test_the_loop_asks_whoever_it_is_handed():
    for module in MODULES:
        if room(module) == "train":
            assert not {room(name) for name in GRAPH[module]} & {"teachers", "objectives", "students", "data"}, module


def run(script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


def test_torch_free_modules_load_no_torch():
    names = [f"potstill.{name}" for name in TORCH_FREE]
    script = f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    script += "    assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), name"
    done = run(script)
    assert done.returncode == 0, done.stderr


def test_every_settings_file_and_every_verb_is_among_the_torch_free():
    settings = {name for name in MODULES if name.endswith(".settings")}
    assert settings <= set(TORCH_FREE)
    script = "import sys, potstill.cli.main\nprint(*sorted(sys.modules))"
    done = run(script)
    verbs = {f"potstill.{name}" for name in MODULES if name.startswith("cli.") and name != "cli.summary"}
    assert verbs <= set(done.stdout.split())


class TestTheTestsThemselves:
    """Each check finds the fault it is for."""

    def test_floors(self):
        assert misplaced("core.batch", {"divergences.kl"})
        assert misplaced("train.loop", {"teachers.local"})
        assert misplaced("divergences.kl", {"config"})
        assert misplaced("students.load", {"data.settings"})
        assert not misplaced("teachers.settings", {"students.settings", "core.settings"})
        assert not misplaced("recipe_yaml", {"config", "recipes.catalogue"})

    def test_imports_in_functions_count_and_submodules_are_resolved(self):
        tree = ast.parse("def f():\n    from potstill.train import loop\n    from potstill.core.errors import Fault\n")
        assert imported(tree, {"train.loop", "core.errors"}) == {"train.loop", "core.errors"}

    def test_circles(self):
        assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == ["a", "b", "c", "a"]
        assert circle({"a": {"b"}, "b": set()}) == []

    @pytest.mark.parametrize(
        "text",
        [
            "import pickle",
            "from dill import loads",
            "import torch\ntorch.load('x')",
            "save = torch.save",
            "from torch import load",
            "f(trust_remote_code=True)",
            "np.load(x, allow_pickle=True)",
            "class DistillTrainer: pass",
            "from transformers import Trainer",
            "from trl.trainer import x",
            "eval('1')",
        ],
    )
    def test_unsafe(self, text):
        assert unsafe(ast.parse(text))

    def test_safe(self):
        assert unsafe(ast.parse("f(trust_remote_code=flag)\nload_file('x')\nmodel.eval()")) == []

    def test_sizes(self):
        assert too_large(ast.parse("def f():\n" + "    x = 1\n" * 60)) == ["f: 61 lines"]
        assert too_large(ast.parse("x = 1\n" * 401)) == ["401 lines"]
        assert too_large(ast.parse("def f():\n" + "    x = 1\n" * 59)) == []
