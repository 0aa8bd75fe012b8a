"""The headline: from the fine-tuned teacher in fp32 PyTorch to an int8 student in its own program, and others beside.

    python benchmarks/headline.py --seeds 0 1 2
    python benchmarks/headline.py --seeds 0 1 2 --arms headline

The teacher is fine-tuned once, under the first seed, and teaches every arm of every seed, as does what it said of all
rows; a seed decides the order of rows and dropout. Each arm is an ordinary run in runs/headline/ARM-seed-N, so a
stopped benchmark goes on where it was. Then every artefact is loaded in its own program, answers the 2,000 test
questions one at a time, and all are timed in one interleaved run at batch 1: each turn after a rest of 5 ms and one
untimed call, so that the waiting threads of one program do not take the processors from the next. Tokenisation is
outside the times, except TF-IDF's, which has no other input than text. Bytes are those of every file that is copied to
where a model runs: weights, tokenizer, config; not the card.

The tables go to standard output as Markdown, the numbers to benchmarks/results/headline.json, and the plot to
benchmarks/results/headline.svg.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from paired import cell, claim

import potstill
from potstill.assemble import texts_of
from potstill.config import Recipe
from potstill.core.batch import Batch
from potstill.data.prepare import Prepared, prepare
from potstill.evaluate.baseline import fit_tfidf
from potstill.evaluate.cost import deployed_bytes
from potstill.evaluate.timing import time_interleaved
from potstill.export.formats import place
from potstill.export.graph import input_names
from potstill.export.graphs import GRAPHS
from potstill.export.rows import tensors_of
from potstill.folder import RunFolder
from potstill.publish import rows_for
from potstill.recipes.catalogue import RECIPES
from potstill.report.pareto import chart, front
from potstill.report.svg import Dot
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.target.cost import REST
from potstill.target.engines import ENGINES

RESULTS = Path(__file__).parent / "results"
PLAIN = ("controls=[]", "evaluate.cost=null", "export.formats=[huggingface,onnx-int8,openvino-int8]")
TEACHER = "teacher, fp32"
# Issue and page: at least so many times faster and smaller, at this share of the teacher's accuracy.
FASTER, SMALLER, KEPT = 14.0, 20.0, 0.97


@dataclass(frozen=True, slots=True)
class Arm:
    """A student: its recipe and what is changed in it."""

    recipe: str
    label: str
    overrides: Sequence[str] = ()


# A recipe that is not shipped is left out.
ARMS: Mapping[str, Arm] = {
    "headline": Arm("headline", "1 block, 7,500 pieces"),
    "larger": Arm("classifier", "1 block, 9,000 pieces"),
    "smaller": Arm(
        "headline",
        "1 block, 4,000 pieces, 384 neurons",
        ("student.vocabulary_size=4000", "student.intermediate_size=384"),
    ),
    "jpqd": Arm("jpqd", "JPQD"),
}


@dataclass(slots=True)
class Artefact:
    """Something that answers. role: its class in the plot. accuracy: of 2,000 test questions. bytes: deployed.
    milliseconds: of each round at batch 1."""

    label: str
    role: str
    bytes: int
    accuracy: float
    call: Callable[[], object] = field(repr=False)
    milliseconds: list[float] = field(default_factory=list)


def main() -> None:
    """Train what is not trained, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    known = [name for name, arm in ARMS.items() if arm.recipe in RECIPES]
    parser.add_argument("--arms", nargs="+", choices=known, default=known)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--output-dir", type=Path, default=Path("runs/headline"))
    options = parser.parse_args()
    first = options.output_dir / f"{options.arms[0]}-seed-{options.seeds[0]}" / "stages"
    runs = {
        (arm, seed): trained(ARMS[arm], seed, options.output_dir / f"{arm}-seed-{seed}", first)
        for seed in options.seeds
        for arm in options.arms
    }
    found = artefacts(runs, first / "teacher" / "model", options.output_dir, options.threads)
    timed(found, options.threads, options.rounds)
    print("\n".join(report(found, options.seeds)))
    RESULTS.mkdir(exist_ok=True)
    values = [
        {name: getattr(one, name) for name in ("label", "role", "bytes", "accuracy", "milliseconds")} for one in found
    ]
    conditions = {name: getattr(options, name) for name in ("seeds", "arms", "threads", "rounds")}
    (RESULTS / "headline.json").write_text(json.dumps({**conditions, "artefacts": values}, indent=1))
    (RESULTS / "headline.svg").write_text(chart(dots(found), x_label="milliseconds a question", y_label="accuracy"))


def trained(arm: Arm, seed: int, folder: Path, first: Path) -> Path:
    """The folder of one arm under one seed, run to its end. first: the stages of the first run, for its teacher."""
    recipe = potstill.load_recipe(arm.recipe, [f"seed={seed}", *PLAIN, *arm.overrides])
    if (first / "teacher" / "stage.json").exists() and not (folder / "config.yaml").exists() and shares(recipe):
        RunFolder.open(folder, recipe)
        shutil.copytree(first / "teacher", folder / "stages" / "teacher")
        for answers in (first / "student").glob("answers-*"):
            shutil.copytree(answers, folder / "stages" / "student" / answers.name)
    potstill.run(recipe, output_dir=folder)
    return folder


def shares(recipe: Recipe) -> bool:
    """Whether this recipe trains the very teacher of the recipe `headline`."""
    own = potstill.load_recipe("headline")
    return recipe.data == own.data and recipe.stages[:1] == own.stages[:1]


def artefacts(runs: Mapping[tuple[str, int], Path], teacher: Path, output: Path, threads: int) -> list[Artefact]:
    """The teacher and its own int8 exports, TF-IDF, then every export of every run."""
    recipe = potstill.load_recipe(str(next(iter(runs.values())) / "config.yaml"))
    found = [opened(TEACHER, "teacher", "PyTorch", teacher, teacher, recipe, threads)]
    engines = {"onnx-int8": "ONNX Runtime", "openvino-int8": "OpenVINO, latency"}
    for form, engine in engines.items():
        folder = teacher_export(teacher, output / place(form).replace("model", "teacher"), form, recipe)
        found.append(opened(f"teacher, {form}", "labels", engine, folder, teacher, recipe, threads))
    found.append(tfidf(teacher, recipe))
    for (arm, seed), run in runs.items():
        model = run / "model"
        role = "untrained" if arm == "jpqd" else "student"
        for form, engine in {"huggingface": "PyTorch", **engines}.items():
            label = f"{ARMS[arm].label}, {'fp32' if form == 'huggingface' else form}"
            found.append(opened(label, role, engine, run / place(form), model, recipe, threads))
        print(f"{arm}, seed {seed}: {', '.join(f'{one.accuracy:.4f}' for one in found[-3:])}", flush=True)
    return found


def opened(label: str, role: str, engine: str, folder: Path, model: Path, recipe: Recipe, threads: int) -> Artefact:
    """A folder in its program. model: the trained folder that it was exported from, for its tokenizer."""
    loaded = load_model(ModelSettings(model_name_or_path=str(model)), task="classify", labels=None)
    names, rows = input_names(loaded), alone(prepare(recipe.data, loaded.tokenizer, "classify", 0))
    open_ = ENGINES[engine].open
    assert open_ is not None
    answer = open_(folder, "classify", threads)
    with torch.inference_mode():
        right = [int(answer(tensors_of(row, names)).argmax()) == int(row.targets_BT[0, 0]) for row in rows]
    turns = cycle([tensors_of(row, names) for row in rows])
    return Artefact(label, role, deployed_bytes(folder), float(np.mean(right)), lambda: answer(next(turns)))


def alone(prepared: Prepared) -> list[Batch]:
    """The test rows, each in a batch of its own."""
    assert prepared.test is not None
    return [prepared.collate([row], 0) for row in prepared.test.encoded]


def teacher_export(teacher: Path, folder: Path, form: str, recipe: Recipe) -> Path:
    """The teacher as an int8 graph with its tokenizer, made once."""
    if not folder.exists():
        loaded = load_model(ModelSettings(model_name_or_path=str(teacher)), task="classify", labels=None)
        prepared = prepare(recipe.data, loaded.tokenizer, "classify", 0)
        aside = folder.with_suffix(".partial")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        graph = next(one for one in GRAPHS if one.name == form)
        graph.write(loaded, aside, rows_for(prepared, recipe.export.calibration_rows))
        loaded.tokenizer.save_pretrained(aside)
        aside.rename(folder)
    return folder


def tfidf(teacher: Path, recipe: Recipe) -> Artefact:
    """Fitted on the labelled rows; its time has the splitting into words in it."""
    loaded = load_model(ModelSettings(model_name_or_path=str(teacher)), task="classify", labels=None)
    prepared = prepare(recipe.data, loaded.tokenizer, "classify", 0)
    known = [one for one in prepared.train.examples if one.label is not None]
    texts = [" ".join(texts_of(one)) for one in known]
    fitted = fit_tfidf(texts, [one.label for one in known if one.label is not None], len(prepared.labels))
    assert prepared.test is not None
    asked = [" ".join(texts_of(one)) for one in prepared.test.examples]
    right = fitted.probabilities(asked).argmax(1) == np.array([one.label for one in prepared.test.examples])
    turns = cycle(asked)
    return Artefact(
        "TF-IDF + logistic regression",
        "tfidf",
        fitted.bytes,
        float(right.mean()),
        lambda: fitted.probabilities([next(turns)]),
    )


def timed(found: Sequence[Artefact], threads: int, rounds: int) -> None:
    """All of them in turn; what each took is written into it."""
    calls = {str(number): one.call for number, one in enumerate(found)}
    for number, seconds in time_interleaved(calls, rounds=rounds, threads=threads, warm_up=5, rest=REST).items():
        found[int(number)].milliseconds = [1000 * one for one in seconds]


def faster(one: Artefact, teacher: Artefact) -> float:
    """Median over rounds of the ratio inside a round."""
    return float(np.median(np.array(teacher.milliseconds) / np.array(one.milliseconds)))


def by_label(found: Sequence[Artefact]) -> dict[str, list[Artefact]]:
    """The same artefact under several seeds, in the order of the table."""
    groups: dict[str, list[Artefact]] = {}
    for one in found:
        groups.setdefault(one.label, []).append(one)
    return groups


def report(found: Sequence[Artefact], seeds: Sequence[int]) -> list[str]:
    """The table, a line per artefact (mean over seeds ± half of Student's 95 % interval), the front, and the claim."""
    teacher, groups = found[0], by_label(found)
    lines = [
        "| | accuracy, % | of the teacher's, % | MB | times smaller | ms, batch 1 | times faster |",
        "|---" * 7 + "|",
    ]
    for label, group in groups.items():
        columns = (
            [100 * one.accuracy for one in group],
            [100 * one.accuracy / teacher.accuracy for one in group],
            [one.bytes / 1e6 for one in group],
            [teacher.bytes / one.bytes for one in group],
            [float(np.median(one.milliseconds)) for one in group],
            [faster(one, teacher) for one in group],
        )
        lines.append(f"| {label} | {' | '.join(cell(values) for values in columns)} |")
    best = "; ".join(one.name for one in front(dots(found)))
    lines += ["", f"On the front (nothing else is both quicker and better): {best}", ""]
    for label, group in groups.items():
        if group[0].role in ("student", "untrained") and len(group) == len(seeds):
            lines += verdict(label, group, teacher)
    return lines


def verdict(label: str, group: Sequence[Artefact], teacher: Artefact) -> list[str]:
    """Whether an artefact reaches what the headline asks for, with every seed's own numbers."""
    kept = [one.accuracy / teacher.accuracy for one in group]
    smaller = [teacher.bytes / one.bytes for one in group]
    quick = [faster(one, teacher) for one in group]
    asked = ((np.mean(quick), FASTER, "fast"), (np.mean(smaller), SMALLER, "small"), (np.mean(kept), KEPT, "good"))
    missing = [word for value, least, word in asked if value < least]
    said = "reaches the headline" if not missing else f"not {' nor '.join(missing)} enough for the headline"
    return [
        f"**{label}** {said} (at least {FASTER:g} times faster, {SMALLER:g} times smaller, {KEPT:.0%} kept):",
        claim("share of the teacher's accuracy", kept),
        claim("times faster", quick),
        claim("times smaller", smaller),
        "",
    ]


def dots(found: Sequence[Artefact]) -> list[Dot]:
    """Each artefact by its time and its accuracy, means over its seeds."""
    return [
        Dot(
            label,
            group[0].role,
            float(np.mean([np.median(one.milliseconds) for one in group])),
            float(np.mean([one.accuracy for one in group])),
        )
        for label, group in by_label(found).items()
    ]


if __name__ == "__main__":
    main()
