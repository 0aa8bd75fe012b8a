"""From scores to a plan: the units with the highest scores stay, the same number in every block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from potstill.compress.magnitude import share_of
from potstill.compress.plan import PrunePlan, plan_of
from potstill.core.errors import ModelError
from potstill.students.axes import Sizes, attention_of, sizes_of
from potstill.students.layer_map import checked
from potstill.students.pooled import config_of
from potstill.students.surgery import best

UNITS = ("neurons", "heads", "groups", "width", "blocks")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitScores:
    """Higher is worth more. neurons, heads, groups: a row for each block of the whole model; width: one row; blocks:
    one number each. Only what is to be cut needs scores."""

    neurons: Sequence[Tensor] | None = None
    heads: Sequence[Tensor] | None = None
    groups: Sequence[Tensor] | None = None
    width: Tensor | None = None
    blocks: Sequence[float] | None = None


def choose(
    module: nn.Module,
    scores: UnitScores,
    *,
    keep: Mapping[str, int] | None = None,
    remove: Mapping[str, float] | None = None,
    blocks: Sequence[int] | None = None,
) -> PrunePlan:
    """The plan that keeps the best units.

    keep: how many of a kind stay; heads, groups and neurons of each block. remove: the share that goes instead,
    floor(share n) of them; what a config cannot say is rounded to keep more, and a kind is never emptied; both are said
    in the plan's notes. blocks: those that stay, in place of scores (`layer_map.evenly` for even spacing).
    Of equal scores the first units stay. Heads are chosen within each key-value group that stays.
    Raises ModelError: scores that are missing or do not fit, a kind named twice, a number out of range, and whatever
    `plan_of` refuses.
    """
    counts, notes = _counts(module, dict(keep or {}), dict(remove or {}))
    sizes = sizes_of(module)
    if blocks is not None and "blocks" in counts:
        raise ModelError("blocks: a number and a list of them: give one of the two")
    if "blocks" in counts:
        blocks = best(torch.tensor(_present(scores, "blocks", sizes.depth)).double(), counts["blocks"])
    stay = checked(range(sizes.depth) if blocks is None else blocks, sizes.depth)
    channels = best(_present(scores, "width", sizes.width), counts["width"]) if "width" in counts else None
    heads = _heads(scores, counts, sizes, stay) if counts.keys() & {"heads", "groups"} else None
    neurons = None
    if "neurons" in counts:
        rows = _present(scores, "neurons", sizes.depth, sizes.neurons)
        neurons = [best(rows[block], counts["neurons"]) for block in stay]
    return plan_of(module, blocks=stay, channels=channels, heads=heads, neurons=neurons, notes=notes)


def _counts(module: nn.Module, keep: dict[str, int], remove: dict[str, float]) -> tuple[dict[str, int], list[str]]:
    """How many of each kind stay, and what had to be said."""
    sizes, notes = sizes_of(module), []
    unknown = (keep.keys() | remove.keys()) - set(UNITS)
    if unknown:
        raise ModelError(f"{', '.join(sorted(unknown))}: no kind of unit: use {', '.join(UNITS)}")
    if both := keep.keys() & remove.keys():
        raise ModelError(f"{', '.join(sorted(both))}: a number to keep and a share to remove: give one of the two")
    if sizes.groups == sizes.heads and "groups" in keep.keys() | remove.keys():
        raise ModelError(
            f"groups: in this `{config_of(module).model_type}` model every head has keys and values of its own, so its "
            "groups are its heads: cut heads"
        )
    present = {"neurons": sizes.neurons, "heads": sizes.heads, "groups": sizes.groups}
    present |= {"width": sizes.width, "blocks": sizes.depth}
    counts: dict[str, int] = {}
    for unit in [*("groups", "heads"), *(unit for unit in UNITS if unit not in ("groups", "heads"))]:
        total = present[unit]
        if unit in keep:
            counts[unit] = keep[unit]
            if not 1 <= keep[unit] <= total:
                left = " No key-value group would be left." if unit in ("heads", "groups") and keep[unit] < 1 else ""
                raise ModelError(f"{unit}: {keep[unit]} of {total} cannot be kept: use 1 to {total}.{left}")
        elif unit in remove:
            counts[unit] = _left(unit, remove[unit], total, _multiple(module, unit, counts, sizes), notes)
    return counts, notes


def _multiple(module: nn.Module, unit: str, counts: Mapping[str, int], sizes: Sizes) -> int:
    """What a number that stays must be a multiple of, so that a config can say it."""
    if unit == "heads":
        return counts.get("groups", sizes.groups) if sizes.groups != sizes.heads else 1
    if unit == "width" and attention_of(module).says_head_size:
        return counts.get("heads", counts.get("groups", sizes.groups) * (sizes.heads // sizes.groups))
    return 1


def _left(unit: str, share: float, total: int, multiple: int, notes: list[str]) -> int:
    if not 0.0 <= share <= 1.0:
        raise ModelError(f"{unit}: {share} to remove: use a share from 0 to 1")
    asked = total - share_of(total, share)
    left = max(1, -(-asked // multiple)) * multiple
    if asked == 0:
        notes.append(f"removing {share:g} of the {unit} would have left none: capped, {left} of {total} stay")
    elif left != asked:
        notes.append(f"removing {share:g} of the {unit} leaves {asked}; {left} stay, a multiple of {multiple}")
    return left


def _heads(scores: UnitScores, counts: Mapping[str, int], sizes: Sizes, blocks: Sequence[int]) -> list[tuple[int, ...]]:
    """Query heads that stay, for each block: the best groups, and within each of them its best heads."""
    shared = sizes.heads // sizes.groups
    plain = shared == 1
    groups = counts.get("groups", sizes.groups)
    wanted = counts.get("heads", groups * shared)
    each = 1 if plain else wanted // groups
    if not plain and (wanted != each * groups or not 1 <= each <= shared):
        raise ModelError(
            f"heads: {wanted} cannot be shared by {groups} key-value groups, 1 to {shared} each: keep a multiple of "
            f"{groups} up to {groups * shared}"
        )
    by_group = _present(scores, "groups", sizes.depth, sizes.groups) if groups < sizes.groups else None
    by_head = _present(scores, "heads", sizes.depth, sizes.heads) if wanted < groups * shared or plain else None
    found = []
    for block in blocks:
        if plain:
            found.append(best(by_head[block], wanted))
            continue
        stay = range(sizes.groups) if by_group is None else best(by_group[block], groups)
        inside = {group: range(group * shared, (group + 1) * shared) for group in stay}
        if by_head is not None:
            rows = {group: best(by_head[block][list(heads)], each) for group, heads in inside.items()}
            inside = {group: [group * shared + one for one in row] for group, row in rows.items()}
        found.append(tuple(head for heads in inside.values() for head in heads))
    return found


def _present(scores: UnitScores, unit: str, rows: int, units: int | None = None) -> Any:
    found = getattr(scores, unit)
    if found is None:
        raise ModelError(f"{unit}: no scores to choose by: give UnitScores({unit}=...)")
    wrong = len(found) != rows or (units is not None and any(len(row) != units for row in found))
    if wrong:
        shape = f"{rows} rows of {units}" if units is not None else f"{rows}"
        raise ModelError(f"{unit}: the scores do not fit: {shape} are needed: score this model")
    return found
