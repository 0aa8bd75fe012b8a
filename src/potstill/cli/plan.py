"""`potstill plan FILE`: what a run will cost, before anything is paid. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from potstill.cli.options import AsJson, Overrides
from potstill.cli.output import emit

if TYPE_CHECKING:
    from potstill.estimate import StageEstimate
    from potstill.estimate_rollout import Writing
    from potstill.traffic import Price, Reason, StepShape


def plan(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A recipe; or none, and the shapes.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    batch: Annotated[int | None, typer.Option(min=1, max=10**9, help="Rows of a step.", show_default=False)] = None,
    length: Annotated[int | None, typer.Option(min=1, max=10**9, help="Tokens of a row.", show_default=False)] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Entries of the teacher.", show_default=False)
    ] = None,
    hidden: Annotated[
        int | None, typer.Option(min=1, max=10**9, help="Width of its last states.", show_default=False)
    ] = None,
    bytes_: Annotated[int, typer.Option("--bytes", help="Bytes of a logit: 2, 4 or 8.")] = 2,
    top_k: Annotated[int, typer.Option(min=1, max=10**9, help="Entries of the top-k form.")] = 64,
    teachers: Annotated[int, typer.Option(min=1, max=10**6, help="Teachers that each send one.")] = 1,
    bandwidth: Annotated[
        float | None, typer.Option(help="GB/s that the target reads: bounds its decoding.", show_default=False)
    ] = None,
    efficiency: Annotated[
        float | None,
        typer.Option(help="Share of it that decoding reaches (PyTorch: 0.33).", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print steps, tokens, bytes on the wire, memory, disk and FLOPs. Give a recipe, or the shapes of one step."""
    from potstill.core.errors import InputError

    shapes = {"--batch": batch, "--length": length, "--vocabulary": vocabulary, "--hidden": hidden}
    if file is not None and any(value is not None for value in shapes.values()):
        raise InputError(
            "a recipe has its own shapes: give either FILE, or --batch, --length, --vocabulary and --hidden"
        )
    if file is not None:
        if efficiency is not None and bandwidth is None:
            raise InputError("--efficiency is a share of the bandwidth: give --bandwidth too")
        _recipe(file, overrides or [], bandwidth, efficiency, as_json)
        return
    if missing := [name for name, value in shapes.items() if value is None]:
        raise InputError(f"nothing to plan: name a recipe, or give the shapes of a step ({', '.join(missing)} missing)")
    if bytes_ not in (2, 4, 8):
        raise InputError(f"--bytes is {bytes_}, and a logit has 2, 4 or 8: use one of them")
    if bandwidth is not None or efficiency is not None:
        raise InputError("--bandwidth bounds the decoding of a recipe's student: name a recipe")
    from potstill.traffic import StepShape

    shape = StepShape(batch or 0, length or 0, vocabulary or 0, hidden or 0, top_k=top_k, spoken_bytes=bytes_)
    _step(shape, teachers, as_json)


def _step(shape: StepShape, teachers: int, as_json: bool) -> None:
    from dataclasses import asdict

    from potstill.traffic import chosen, prices

    found, form = prices(shape), chosen(shape)
    title = (
        f"one step of {shape.batch:,} rows of {shape.length:,} tokens, {shape.vocabulary:,} entries, "
        f"width {shape.width:,}; bytes per teacher"
    )
    lines = [title, "", *_table(found), "", f"chosen: {_reason(form)}"]
    if teachers > 1:
        total = next(row for row in found if row.form == form[0]).frame * teachers
        lines.append(f"{teachers} teachers: {_sized(total)} together")
    values = {
        "shape": asdict(shape),
        "teachers": teachers,
        "wire": [{"form": row.form, "bytes": row.payload, "frame_bytes": row.frame} for row in found],
        "form": form[0],
        "why": form[1],
    }
    emit("\n".join(lines), values, as_json=as_json)


def _recipe(
    file: str, overrides: Sequence[str], bandwidth: float | None, efficiency: float | None, as_json: bool
) -> None:
    from potstill.estimate import EFFICIENCY, decode_ceiling, decode_prediction, estimate
    from potstill.estimate import as_json as values_of
    from potstill.licensing import clear, place_of
    from potstill.recipe_yaml import load_recipe
    from potstill.sizes import refuse_larger_tutors

    recipe = load_recipe(file, list(overrides))
    clear(recipe, place_of(recipe))
    refuse_larger_tutors(recipe)
    stages = estimate(recipe)
    values: dict[str, Any] = {"recipe": recipe.name, "stages": values_of(stages)}
    lines = [f"{recipe.name}: task {recipe.task}"]
    for stage in stages:
        lines += ["", *_stage(stage)]
    if bandwidth is not None and recipe.task != "classify":
        student, share = stages[-1].student, EFFICIENCY if efficiency is None else efficiency
        ceiling, likely = (decode_ceiling(student, bandwidth * 1e9), decode_prediction(student, bandwidth * 1e9, share))
        values |= {"decode_tokens_per_second_at_most": ceiling, "decode_tokens_per_second": likely}
        lines += ["", f"decoding at {bandwidth:g} GB/s, batch 1, fp32: at most {ceiling:.3g} tokens/s, "
                  f"about {likely:.3g} where {share:g} of the bandwidth is reached"]  # fmt: skip
    emit("\n".join(lines), values, as_json=as_json)


def _stage(one: StageEstimate) -> list[str]:
    def known(value: float | None, text: str) -> str:
        return "unknown before the data is read" if value is None else text

    lines = [
        f"stage {one.name}: student {one.student_parameters / 1e6:,.1f} M parameters"
        + (f", {len(one.teachers)} teacher(s)" if one.teachers else ""),
        f"  steps     {known(one.steps, f'{one.steps:,}')}",
        f"  tokens    {known(one.tokens, f'at most {one.tokens:,}')}, {one.step_tokens:,} a step",
        f"  FLOPs     {known(one.flops, f'{one.flops:.3g}')}, {one.student_flops + one.teacher_flops:.3g} a step, "
        f"of which the teacher {one.teacher_flops:.3g}",
        *([f"  scoring   {one.scoring_flops:.3g} FLOPs of these"] if one.scoring_flops else []),
        *([_writing(one.writing)] if one.writing else []),
        *([f"  augment   {one.augment_flops:.3g} FLOPs of these"] if one.augment_flops else []),
        f"  memory    {_sized(one.memory_bytes)} for weights, gradients and moments, and activations",
        f"  disk      {_sized(one.disk_bytes)} at most"
        + (f", of which signals {_sized(one.store_bytes)}" if one.store_bytes is not None else ""),
    ]
    if one.form is not None:
        lines += ["  signals of one step, per teacher:", *(f"    {line}" for line in _table(one.wire))]
        lines.append(f"  form      {_reason(one.form)}")
    return lines


def _writing(one: Writing) -> str:
    if one.all_tokens is None:
        return "  writing   unknown before the data is read"
    rises = "" if one.certain else ", if the validation loss rises at every evaluation"
    return (
        f"  writing   {one.all_flops:.3g} FLOPs of these, at most {one.all_tokens:,} tokens of the student's own{rises}"
        f"; keys and values {_sized(one.cache_bytes)} of the memory"
    )


def _table(rows: Sequence[Price]) -> list[str]:
    whole = next(row.payload for row in rows if row.form == "logits")
    return [
        f"{row.form:<12} {_sized(row.payload):>9}  {whole / row.payload:>6.3g}x less than logits  "
        f"{row.frame:,} bytes framed"
        for row in rows
    ]


def _reason(form: Reason) -> str:
    return f"{form[0]}: {form[1]}"


def _sized(count: float) -> str:
    from potstill.traffic import sized

    return sized(count)
