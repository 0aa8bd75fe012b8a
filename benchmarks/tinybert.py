"""What each part of the recipe `tinybert` is worth: all of it, no losses on layers, no varied rows, one stage.

    python benchmarks/tinybert.py --seeds 0 1 2
    python benchmarks/tinybert.py --seeds 0 1 2 --steps 200 400

The teacher and the speaker are trained once, under the first seed, and serve every arm of every seed. All arms take as
many steps in all (the two numbers of --steps together). Each is an ordinary run in OUTPUT/ARM-seed-N, so a stopped
benchmark goes on where it was. The table goes to standard output as Markdown, with the differences from the first arm
seed by seed; the numbers to benchmarks/results/tinybert-arms.json.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from paired import differences

import potstill
from potstill.folder import RunFolder

RESULTS = Path(__file__).parent / "results"
PLAIN = (
    "controls=[]",
    "evaluate.cost=null",
    "evaluate.bootstrap=100",
    "train.eval_steps=null",
    "train.save_steps=null",
)
SIZE = "{hidden_size: 192, num_hidden_layers: 1, num_attention_heads: 12, intermediate_size: 768, embeddings: svd}"
LAYERS = "{attention: 1, hidden: 1, embedding: 1, projection: {learning_rate: 1.0e-3}}"
BOTH = ("stages.2.train.max_steps={layers}", "train.max_steps={answers}")
# Without a stage between teacher and student; {root}: where the models of the first stages lie.
ALONE = (
    "stages=[]",
    "student.model_name_or_path={root}/teacher/model",
    f"student.size={SIZE}",
    "teacher.models.0.model_name_or_path={root}/teacher/model",
    "augment.model_name_or_path={root}/speaker/model",
    "train.max_steps={all}",
)
ARMS: Mapping[str, Sequence[str]] = {
    "all of it": BOTH,
    "no losses on layers": ALONE,
    "no varied rows": (*BOTH, "augment=null", "stages.2.augment=null"),
    "one stage": (*ALONE, "teacher.cache=false", f"objective.layers={LAYERS}"),
}
MEASURES = ("quality.accuracy", "agreement.kl", "agreement.top1")


def main() -> None:
    """Run every arm of every seed, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs=2, default=[2000, 618], metavar=("LAYERS", "ANSWERS"))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--shared", type=Path, help="the folder stages of another run, for its speaker and teacher")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/tinybert-arms"))
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args()
    shared: Path | None = options.shared and options.shared.resolve()
    found = {arm: list[dict[str, float]]() for arm in options.arms}
    for seed in options.seeds:
        for arm in options.arms:
            place = options.output_dir / f"{arm.replace(' ', '-')}-seed-{seed}"
            given = [
                f"seed={seed}",
                *PLAIN,
                *options.overrides,
                *changes(arm, options.steps, shared or place / "stages"),
            ]
            record = run(given, place, shared)
            shared = shared or (place / "stages").resolve()
            found[arm].append({name: record.value(name) or 0.0 for name in MEASURES})
            teacher = record.value("quality.accuracy", "teacher")
            print(f"{arm}, seed {seed}: {found[arm][-1]}, teacher {teacher}", flush=True)
    whole, *others = found
    print("\n".join([*table(found), "", *differences(found, [(whole, arm) for arm in others], MEASURES)]))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "tinybert-arms.json").write_text(json.dumps({"seeds": options.seeds, "arms": found}, indent=1))


def changes(arm: str, steps: Sequence[int], root: Path) -> list[str]:
    """What an arm changes in the recipe. steps: on layers, on answers."""
    layers, answers = steps
    return [one.format(layers=layers, answers=answers, all=layers + answers, root=root)
            if "{root}" in one or "max_steps" in one else one for one in ARMS[arm]]  # fmt: skip


def run(overrides: Sequence[str], place: Path, shared: Path | None) -> potstill.RunRecord:
    """One arm under one seed, with the first stages where they are trained already."""
    if shared is not None and not (place / "config.yaml").exists():
        RunFolder.open(place, potstill.load_recipe("tinybert", list(overrides)))
        for name in ("speaker", "teacher") if "stages=[]" not in overrides else ():
            shutil.copytree(shared / name, place / "stages" / name)
    return potstill.run("tinybert", list(overrides), output_dir=place)


def table(found: Mapping[str, Sequence[Mapping[str, float]]]) -> list[str]:
    """A row per arm, means over seeds."""
    lines = [f"| | {' | '.join(MEASURES)} |", "|---" * (len(MEASURES) + 1) + "|"]
    for arm, runs in found.items():
        means = (sum(one[name] for one in runs) / len(runs) for name in MEASURES)
        lines.append(f"| {arm} | {' | '.join(f'{mean:.4g}' for mean in means)} |")
    return lines


if __name__ == "__main__":
    main()
