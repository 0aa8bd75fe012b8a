"""What each GGUF format costs and changes: the table of docs/export.md.

    python benchmarks/gguf_formats.py [--passages 6] [--out FILE]

SmolLM2 as packaged, and its half as the recipe half-decoder cuts it, not healed: size of the file, and its logits in
llama.cpp and dequantised in transformers against those of PyTorch in fp32, on validation passages of that recipe.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from potstill.core.batch import Batch
from potstill.data.prepare import prepare
from potstill.export.gguf.reading import dequantised, in_llama
from potstill.export.gguf.write import FILE, SCHEMES, types_of, write_gguf
from potstill.export.parity import of_module
from potstill.export.runtimes import Answer
from potstill.publish import rows_for
from potstill.recipe_yaml import load_recipe
from potstill.students.inherit import make_student
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings

RESULTS = Path(__file__).parent / "results"


def logits(answer: Answer, rows: Sequence[Batch]) -> Float[Tensor, "N V"]:
    return torch.cat([answer([row.tokens_BL, row.attention_BL.long()])[row.attention_BL] for row in rows])


def differences(found_NV: Float[Tensor, "N V"], true_NV: Float[Tensor, "N V"]) -> dict[str, float]:
    largest_N = (found_NV - true_NV).abs().amax(-1)
    same = (found_NV.argmax(-1) == true_NV.argmax(-1)).double().mean()
    return {"largest": float(largest_N.max()), "mean_largest": float(largest_N.mean()), "same": float(same)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS / "gguf_formats.json")
    given = parser.parse_args()
    recipe = load_recipe("half-decoder", [f"data.validation.limit={given.passages}"])
    named = ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct")
    whole = load_model(named, task="causal-lm", labels=None)
    half = make_student(recipe.student, whole, task="causal-lm", labels=None, texts=[], seed=0)
    rows = rows_for(prepare(recipe.data, whole.tokenizer, recipe.task, recipe.seed), 1).held_out
    measured = []
    for model, loaded in (("whole", whole), ("half", half)):
        true_NV = logits(of_module(loaded.module), rows)
        for scheme in SCHEMES:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_gguf(loaded, folder, scheme, name="SmolLM2", licence="Apache-2.0")
                size = {"bytes": (folder / FILE).stat().st_size, "types": types_of(folder / FILE)}
                llama = differences(logits(in_llama(folder, 1), rows), true_NV)
                reader = differences(logits(dequantised(folder), rows), true_NV)
            row = {"model": model, "format": scheme.name, "positions": len(true_NV), **size}
            measured.append({**row, "llama.cpp": llama, "transformers": reader})
            print(json.dumps(measured[-1]), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
