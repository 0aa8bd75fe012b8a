"""Verbs that need no model do not load torch; measured in a process of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = str(Path(__file__).parents[2] / "src")


def start(words, folder):
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


PROBE = """
import sys
from potstill.cli.main import main
code = main({arguments!r})
heavy = [name for name in ("torch", "transformers", "datasets", "numpy", "jaxtyping") if name in sys.modules]
print("CODE", code, "HEAVY", heavy, "RICH", "rich" in sys.modules, file=sys.stderr)
"""


def probe(arguments, folder):
    done = start([sys.executable, "-c", PROBE.format(arguments=arguments)], folder)
    return done.stdout, done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["ls"], 0),
        (["cp", "classifier", "mine.yaml"], 0),
        (["schema"], 0),
        (["validate", "classifier", "train.max_steps=3"], 0),
        (["validate", "classifier", "train.max_stepps=3"], 2),
        (["run", "classifier", "train.max_stepps=3"], 2),
        (["write", "--help"], 0),
        (["write", "no-such-file.yaml"], 2),
    ],
    ids=str,
)
def test_no_torch(arguments, code, tmp_path):
    _, last = probe(arguments, tmp_path)
    assert last == f"CODE {code} HEAVY [] RICH False"


def test_import_potstill_loads_nothing_heavy(tmp_path):
    text = "import sys, potstill; potstill.load_recipe; potstill.Recipe; print(sorted(sys.modules))"
    done = start([sys.executable, "-c", text], tmp_path)
    assert "'torch'" not in done.stdout
    assert "'potstill.config'" in done.stdout


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    text = "import sys; from potstill.cli.main import main; sys.exit(main(['schema']))"
    shell = f'{sys.executable} -c "{text}" | true; exit ${{PIPESTATUS[0]}}'
    done = start(["bash", "-c", shell], tmp_path)
    assert done.stderr == ""
    assert done.returncode in (0, 141)


def test_the_module_is_the_command(tmp_path):
    done = start([sys.executable, "-m", "potstill", "ls", "--json"], tmp_path)
    names = {row["name"] for row in json.loads(done.stdout)["recipes"]}
    assert {"classifier", "half-decoder"} <= names
