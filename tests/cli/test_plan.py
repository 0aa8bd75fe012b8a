"""`potstill plan`: the figures, for people and for machines, without torch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from potstill.cli.main import main

SHAPES = ["--batch", "8", "--length", "2048", "--vocabulary", "150000", "--hidden", "4096", "--bytes", "2"]


def test_the_logit_tax_in_words(capsys):
    assert main(["plan", *SHAPES]) == 0
    out = capsys.readouterr().out
    assert "logits         4.92 GB" in out
    assert "hidden-bf16     134 MB" in out
    assert "chosen: hidden-bf16: " in out


def test_and_as_json(capsys):
    assert main(["plan", *SHAPES, "--teachers", "3", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert {row["form"]: row["bytes"] for row in values["wire"]}["logits"] == 4_915_200_000
    assert values["form"] == "hidden-bf16"
    assert values["teachers"] == 3


def test_a_recipe(capsys):
    assert main(["plan", "half-decoder", "train.max_steps=1000", "--bandwidth", "15"]) == 0
    out = capsys.readouterr().out
    assert "steps     1,000" in out
    assert "81.4 M parameters" in out
    assert "form      hidden-int8" in out
    assert "at most 46.1 tokens/s, about 15.2 where 0.33 of the bandwidth is reached" in out
    assert main(["plan", "half-decoder", "--json"]) == 0
    (stage,) = json.loads(capsys.readouterr().out)["stages"]
    assert stage["tokens_at_most"] == 60 * 4 * 256


def test_what_the_student_writes(capsys):
    """30 steps of 8 rows with 96 new tokens each, half of them the student's."""
    assert main(["plan", "gkd"]) == 0
    out = capsys.readouterr().out
    assert "of these, at most 11,520 tokens of the student's own; keys and values" in out
    assert main(["plan", "distillm"]) == 0
    assert "1,152 tokens of the student's own, if the validation loss rises" in capsys.readouterr().out
    assert main(["plan", "gkd", "--json"]) == 0
    warm, stage = json.loads(capsys.readouterr().out)["stages"]
    assert stage["written_tokens_at_most"] == 11_520
    assert stage["writing_flops_at_most"] > 0 == warm["writing_flops_at_most"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "--batch, --length, --vocabulary, --hidden missing"),
        (["--batch", "8"], "--length, --vocabulary, --hidden missing"),
        (["half-decoder", "--batch", "8"], "give either FILE, or"),
        ([*SHAPES[:-1], "3"], "--bytes is 3"),
        ([*SHAPES, "--bandwidth", "3"], "name a recipe"),
        (["half-decoder", "--efficiency", "0.4"], "give --bandwidth too"),
        (["half-decoder", "--bandwidth", "15", "--efficiency", "1.4"], "share of the bandwidth"),
        (["--batch", "0"], "--batch"),
        (["half-decodr"], "no such file"),
        (["half-decoder", "teacher.models.0.model_name_or_path=nobody/nothing"], "a plan fetches nothing"),
    ],
)
def test_what_cannot_be_planned(capsys, words, why):
    assert main(["plan", *words]) == 2
    assert why in capsys.readouterr().err


def test_no_torch():
    source = Path(__file__).parents[2] / "src"
    script = "import sys\nfrom potstill.cli.main import main\nmain(['plan', 'half-decoder'])\n"
    script += "assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
