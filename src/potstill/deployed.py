"""An exported folder, measured as the student was: the same test rows and metrics, answered by its own runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from potstill.bench import Bench
from potstill.core.batch import Batch
from potstill.core.errors import FolderError
from potstill.core.outcome import Finding
from potstill.core.protocols import Forward
from potstill.core.signal import Outputs, Want
from potstill.evaluate.cost import folder_bytes
from potstill.evaluate.predictions import predict, predict_tokens
from potstill.evaluate.suite import evaluate_classifier, evaluate_language_model
from potstill.export.formats import FORMATS, place, refuse_not_installed
from potstill.export.graph import input_names
from potstill.export.rows import tensors_of
from potstill.export.runtimes import Answer
from potstill.measure import subject
from potstill.students.settings import ModelSettings

SUBJECT = "student as {}"


def measure_export(bench: Bench, name: str) -> list[Finding]:
    """quality.*, calibration.* and cost.bytes of one exported format, its subject "student as NAME"; the runtime is in
    the evidence.

    Raises FolderError when the run has no such folder, InputError when the runtime is not installed, DataError without
    test rows.
    """
    folder = exported_folder(bench.folder.root, name)
    refuse_not_installed([name])
    recipe, format_, called = bench.recipe, FORMATS[name], SUBJECT.format(name)
    student = subject(bench, "student", ModelSettings(model_name_or_path="stage:student"))
    threads = torch.get_num_threads()
    bench.say(f"measuring {folder} in {format_.runtime()}")
    answer = format_.open(folder, student.loaded, recipe.task, threads)
    forward, batches = forward_of(answer, input_names(student.loaded)), student.batches(bench)
    if recipe.task == "classify":
        predictions, classes = predict(forward, batches), student.prepared.labels
        findings = evaluate_classifier(called, predictions, classes=classes, settings=recipe.evaluate, seed=recipe.seed)
    else:
        sums = predict_tokens(forward, batches)
        findings = evaluate_language_model(called, sums, settings=recipe.evaluate, seed=recipe.seed)
    findings.append(Finding("cost.bytes", float(folder_bytes(folder)), called, evidence={"unit": "bytes"}))
    return [replace(one, evidence={**one.evidence, "runtime": format_.runtime()}) for one in findings]


def exported_folder(root: Path, name: str) -> Path:
    """Where a run holds a format. Raises FolderError when it does not."""
    folder = root / place(name)
    if not folder.is_dir():
        raise FolderError(f"{folder}: the student was not exported so. Next: `potstill export {root} --format {name}`.")
    return folder


def forward_of(answer: Answer, names: tuple[str, ...]) -> Forward:
    """A runtime as what evaluation calls. names: the graph's inputs."""

    def forward(batch: Batch, want: Want) -> Outputs:
        logits = answer(tensors_of(batch, names))
        return Outputs(logits_BTV=logits.unsqueeze(1) if logits.dim() == 2 else logits)

    return forward
