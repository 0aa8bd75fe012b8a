"""The student as a graph for a runtime, in fp32 or quantised: written, loaded again in that runtime, and compared.

ONNX through `torch.onnx.export(dynamo=True)`, OpenVINO IR through `torch.export`; quantised by the runtimes' own
libraries (onnxruntime, nncf), whose kernels are the ones that will run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from potstill.core.errors import DataError
from potstill.core.outcome import Finding
from potstill.core.task import Task
from potstill.durable import writing
from potstill.environment import saturates_int8
from potstill.export.card import CardFacts, model_card
from potstill.export.graph import captured, input_names
from potstill.export.huggingface import Exported, publish
from potstill.export.parity import as_trained, near_trained, reloaded_template
from potstill.export.rows import Rows, tensors_of
from potstill.export.runtimes import RUNTIMES, needed
from potstill.export.settings import ExportSettings
from potstill.export.silence import silence
from potstill.export.strip import refuse_training_parts
from potstill.students.load import LoadedModel
from potstill.students.pooled import config_of
from potstill.students.quiet import quiet

# (loaded, folder, rows): the graph's file in the folder.
Write = Callable[[LoadedModel, Path, Rows], None]


@dataclass(frozen=True, slots=True)
class GraphFormat:
    """runtime: of RUNTIMES. modules: the packages that write it and read it. quantised: its weights are no longer the
    trained ones."""

    name: str
    runtime: str
    modules: tuple[str, ...]
    write: Write
    quantised: bool


def export_graph(
    graph: GraphFormat,
    trained: LoadedModel,
    target: Path,
    *,
    task: Task,
    facts: CardFacts,
    settings: ExportSettings,
    rows: Rows,
) -> Exported:
    """The graph, its tokenizer, config and card in `target`.

    Raises InputError when a package is not installed, ModelError for a student that cannot be captured or that
    carries weights which only training needed, DataError for a quantiser without rows, FolderError and DiskError.
    """
    runtime = RUNTIMES[graph.runtime]
    refuse_training_parts(trained.module)

    def write(folder: Path) -> None:
        with writing(folder), silence():
            graph.write(trained, folder, rows)
        with writing(folder), quiet():
            config_of(trained.module).save_pretrained(folder)
            trained.tokenizer.save_pretrained(folder)
            if task == "causal-lm":
                trained.module.generation_config.save_pretrained(folder)  # type: ignore[union-attr, operator]

    def check(folder: Path) -> list[Finding]:
        answer = runtime.open(folder, 1)
        if graph.quantised:
            least = settings.least_agreement
            findings = near_trained(graph.name, answer, trained, rows=rows, least_agreement=least)
            return [*findings, reloaded_template(graph.name, trained, folder)]
        return as_trained(graph.name, answer, trained, folder, task=task, tolerance=settings.runtime_tolerance)

    own = replace(facts, library=graph.runtime)
    return publish(
        target, write=write, check=check, card=lambda findings: model_card(own, findings), notices=facts.notices
    )


def _to_onnx(loaded: LoadedModel, folder: Path, rows: Rows) -> None:
    needed("onnxscript", "onnx")
    names = list(input_names(loaded))
    made = torch.onnx.export(captured(loaded), dynamo=True, verbose=False, input_names=names, output_names=["logits"])
    assert made is not None
    made.save(folder / "model.onnx")


def _to_onnx_int8(loaded: LoadedModel, folder: Path, rows: Rows) -> None:
    """Weights per output channel, activations by the range of each call."""
    quantization = needed("onnxruntime.quantization", "onnx")
    _to_onnx(loaded, folder, rows)
    whole = (folder / "model.onnx").rename(folder / "whole.onnx")
    quantization.quantize_dynamic(whole, folder / "model.onnx", per_channel=True, reduce_range=saturates())
    for file in folder.glob("whole.onnx*"):
        file.unlink()


def _to_openvino(loaded: LoadedModel, folder: Path, rows: Rows) -> None:
    _save(_openvino_graph(loaded), folder)


def _to_openvino_int8(loaded: LoadedModel, folder: Path, rows: Rows) -> None:
    """Weights and activations, static ranges from the calibration rows."""
    nncf = needed("nncf", "cpu")
    refuse_calibration(loaded, rows)
    names = input_names(loaded)
    dataset = nncf.Dataset(rows.calibration, lambda batch: [one.numpy() for one in tensors_of(batch, names)])
    kind, seen = nncf.ModelType.TRANSFORMER, len(rows.calibration)
    terms = {"model_type": kind, "subset_size": seen}
    if saturates():
        terms["advanced_parameters"] = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
    _save(nncf.quantize(_openvino_graph(loaded), dataset, **terms), folder)


def _to_openvino_int8_weights(loaded: LoadedModel, folder: Path, rows: Rows) -> None:
    """Weights alone, per output channel; the activations stay floating point."""
    nncf = needed("nncf", "cpu")
    _save(nncf.compress_weights(_openvino_graph(loaded), mode=nncf.CompressWeightsMode.INT8_SYM), folder)


def saturates() -> bool:
    """Whether this processor's int8 products overflow. Then weights take 7 of the 8 bits, as both makers advise."""
    source = Path("/proc/cpuinfo")
    return source.exists() and saturates_int8(source.read_text(errors="replace"))


def refuse_calibration(loaded: LoadedModel, rows: Rows) -> None:
    """Raises DataError for calibration rows that cannot stand for the data: none, or all of one class of a model that
    tells several apart."""
    if not rows.calibration:
        raise DataError("openvino-int8 takes its ranges from training rows and there are none: choose another format")
    names = getattr(config_of(loaded.module), "id2label", {})
    known = [batch for batch in rows.calibration if batch.targets_BT.shape[1] == 1 and float(batch.weights["hard"]) > 0]
    classes = {int(batch.targets_BT) for batch in known}
    if len(known) > 1 and len(classes) == 1:
        raise DataError(
            f"openvino-int8 takes its ranges from {len(known)} training rows, and all of them are of the class "
            f"{names.get(*classes, *classes)}: the ranges of the others would be guessed. Next: raise "
            "export.calibration_rows, or choose openvino-int8-weights, which needs no rows."
        )


def _openvino_graph(loaded: LoadedModel) -> Any:
    return needed("openvino", "cpu").convert_model(captured(loaded))


def _save(graph: Any, folder: Path) -> None:
    needed("openvino", "cpu").save_model(graph, folder / "model.xml", compress_to_fp16=False)


_ONNX, _NNCF = ("onnx", "onnxscript", "onnxruntime"), ("openvino", "nncf")
GRAPHS = (
    GraphFormat("onnx", "onnxruntime", _ONNX, _to_onnx, quantised=False),
    GraphFormat("onnx-int8", "onnxruntime", _ONNX, _to_onnx_int8, quantised=True),
    GraphFormat("openvino", "openvino", ("openvino",), _to_openvino, quantised=False),
    GraphFormat("openvino-int8", "openvino", _NNCF, _to_openvino_int8, quantised=True),
    GraphFormat("openvino-int8-weights", "openvino", _NNCF, _to_openvino_int8_weights, quantised=True),
)
