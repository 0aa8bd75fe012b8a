"""A plan on paper: as a table, beside another plan, as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from pydantic import ValidationError

from potstill.compress.plan import PrunePlan
from potstill.core.errors import ModelError
from potstill.durable import replace_file, writing
from potstill.students.axes import Sizes

_NAMES = {
    "depth": "Blocks",
    "width": "Width of a state",
    "heads": "Query heads of a block",
    "groups": "Key-value groups of a block",
    "head_size": "Channels of a head",
    "neurons": "Neurons of a block",
}


def table(plan: PrunePlan) -> list[str]:
    """Markdown lines: each size before and after, the weights, the blocks that stay, the notes."""
    lines = [f"| `{plan.architecture}` | Before | After | Stays |", "|---|---|---|---|"]
    for field in fields(Sizes):
        lines.append(_row(_NAMES[field.name], getattr(plan.before, field.name), getattr(plan.after, field.name)))
    lines.append(_row("Weights", plan.parameters_before, plan.parameters_after))
    lines += ["", f"Blocks that stay: {', '.join(map(str, plan.blocks))}."]
    return lines + [f"Note: {note}." for note in plan.notes]


def diff(old: PrunePlan, new: PrunePlan) -> list[str]:
    """What the new plan keeps otherwise than the old one, a line each; empty when they keep the same.

    Raises ModelError when the plans are for different models.
    """
    if (old.architecture, old.before) != (new.architecture, new.before):
        raise ModelError(
            f"a plan for a `{old.architecture}` of {old.before} and one for a `{new.architecture}` of {new.before} "
            "have nothing in common: compare plans for the same model"
        )
    lines = _changes("blocks", old.blocks, new.blocks) + _changes("channels", old.channels, new.channels)
    before, after = (dict(zip(plan.blocks, plan.layers, strict=True)) for plan in (old, new))
    for block in sorted(before.keys() & after.keys()):
        for name in ("heads", "groups", "neurons"):
            lines += _changes(f"block {block}, {name}", getattr(before[block], name), getattr(after[block], name))
    if lines:
        change = new.parameters_after - old.parameters_after
        lines.append(f"weights: {old.parameters_after:,} -> {new.parameters_after:,} ({change:+,})")
    return lines


def save_plan(plan: PrunePlan, path: Path) -> None:
    """Write the plan as JSON; the whole file or the old one, whatever happens."""
    with writing(path):
        replace_file(path, (plan.model_dump_json(indent=1) + "\n").encode())


def load_plan(path: Path) -> PrunePlan:
    """Raises ModelError: not there, not a plan."""
    try:
        return PrunePlan.model_validate_json(path.read_bytes(), strict=True)
    except OSError as error:
        raise ModelError(f"{path}: no plan can be read here ({error.strerror}): name a file of save_plan") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise ModelError(f"{path}: not a plan: {place}: {first['msg']}: name a file of save_plan") from error


def _row(name: str, before: int, after: int) -> str:
    return f"| {name} | {before:,} | {after:,} | {after / before:.1%} |"


def _changes(what: str, old: Sequence[int], new: Sequence[int]) -> list[str]:
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    parts = [f"{word} {', '.join(map(str, units))}" for word, units in (("less", gone), ("more", come)) if units]
    return [f"{what}: {'; '.join(parts)}"] if parts else []
