"""The plan of a structured pruning: which units stay, as a value that is checked, compared, printed and saved.

A plan is made from a model and says nothing of its weights. It can only be made when the smaller model's config can say
it, so whatever stands in a plan can be applied, saved and loaded by transformers alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from huggingface_hub.errors import StrictDataclassError
from torch import nn

from potstill.core.errors import ModelError
from potstill.core.settings import Settings
from potstill.students.axes import (
    Sizes,
    attention_of,
    axes_of,
    block_of,
    changes_for,
    refuse_width,
    says_head_sizes,
    sizes_of,
)
from potstill.students.cut import Kept
from potstill.students.layer_map import checked
from potstill.students.layouts import body_of, edited
from potstill.students.pooled import config_of


class KeptUnits(Settings):
    """Of one block, what stays: query heads, key-value groups (the same as the heads where each has its own), neurons;
    zero-based in the block of the whole model, increasing."""

    heads: tuple[int, ...]
    groups: tuple[int, ...]
    neurons: tuple[int, ...]


class PrunePlan(Settings):
    """blocks: those that stay. layers: what stays in each of them, in their order. channels: of the states, in all of
    the model. parameters: distinct weights, a tied table counts once. notes: what was asked for and could not be given.
    """

    format: Literal["potstill prune plan 1"] = "potstill prune plan 1"
    architecture: str
    before: Sizes
    after: Sizes
    parameters_before: int
    parameters_after: int
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    layers: tuple[KeptUnits, ...]
    notes: tuple[str, ...] = ()

    def kept(self) -> Kept:
        """The units that stay, by block of the model that has only these blocks; None where all of a kind stay."""
        old, new = self.before, self.after
        return Kept(
            width=None if new.width == old.width else self.channels,
            heads=None if new.heads == old.heads else [layer.heads for layer in self.layers],
            groups=None if new.groups == old.groups else [layer.groups for layer in self.layers],
            neurons=None if new.neurons == old.neurons else [layer.neurons for layer in self.layers],
        )


def plan_of(
    module: nn.Module,
    *,
    blocks: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    heads: Sequence[Sequence[int]] | None = None,
    neurons: Sequence[Sequence[int]] | None = None,
    notes: Sequence[str] = (),
) -> PrunePlan:
    """The plan that keeps these units. heads, neurons: a row for each block that stays; None: everything stays.

    A key-value group stays where one of its heads does.
    Raises ModelError: an architecture that is not known; units out of range, repeated or out of order; a block left
    without heads, groups or neurons; numbers that differ from block to block or group to group, a width or head count
    that the architecture's config cannot say.
    """
    sizes = sizes_of(module)
    blocks = checked(range(sizes.depth) if blocks is None else blocks, sizes.depth)
    channels = _units("channels", range(sizes.width) if channels is None else channels, sizes.width, "the model")
    head_rows = _rows("heads", heads, blocks, sizes.heads)
    neuron_rows = _rows("neurons", neurons, blocks, sizes.neurons)
    group_rows = [_groups(row, block, sizes) for row, block in zip(head_rows, blocks, strict=True)]
    after = replace(
        sizes,
        depth=len(blocks),
        width=len(channels),
        heads=_same("heads", head_rows, blocks, module),
        groups=_same("key-value groups", group_rows, blocks, module),
        neurons=_same("neurons", neuron_rows, blocks, module),
    )
    _refuse_unsayable(module, sizes, after)
    rows = zip(head_rows, group_rows, neuron_rows, strict=True)
    return PrunePlan(
        architecture=config_of(module).model_type,
        before=sizes,
        after=after,
        parameters_before=count_at(module, sizes, range(sizes.depth)),
        parameters_after=count_at(module, after, blocks),
        blocks=blocks,
        channels=channels,
        layers=tuple(KeptUnits(heads=one, groups=two, neurons=three) for one, two, three in rows),
        notes=tuple(notes),
    )


def count_at(module: nn.Module, sizes: Sizes, blocks: Sequence[int]) -> int:
    """Distinct weights of the model at other sizes, in closed form: each weight is the product of its axes, and each
    axis as long as its role says. blocks: those that are there."""
    axes, total = axes_of(module), 0
    for name, weight in module.named_parameters():
        block = block_of(module, name)
        if block is None or block in blocks:
            lengths = zip(weight.shape, axes[name], strict=True)
            total += math.prod(length if role == "fixed" else sizes.of(role) for length, role in lengths)
    return total


def check_fits(plan: PrunePlan, module: nn.Module) -> None:
    """Raises ModelError when the plan was made for a model of another architecture or size, or was edited by hand
    into one that does not hold together."""
    if (plan.architecture, plan.before) != (config_of(module).model_type, sizes_of(module)):
        raise ModelError(
            f"the plan is for a `{plan.architecture}` of {plan.before}, and the model is a "
            f"`{config_of(module).model_type}` of {sizes_of(module)}: make a plan from this model"
        )
    again = plan_of(
        module,
        blocks=plan.blocks,
        channels=plan.channels,
        heads=[layer.heads for layer in plan.layers],
        neurons=[layer.neurons for layer in plan.layers],
        notes=plan.notes,
    )
    wrong = [name for name in PrunePlan.model_fields if getattr(again, name) != getattr(plan, name)]
    if wrong:
        raise ModelError(
            f"the plan does not hold together: {', '.join(wrong)} do not follow from its units: make it anew"
        )


def _rows(what: str, rows: Sequence[Sequence[int]] | None, blocks: Sequence[int], count: int) -> list[tuple[int, ...]]:
    if rows is None:
        return [tuple(range(count))] * len(blocks)
    if len(rows) != len(blocks):
        raise ModelError(f"{what}: {len(rows)} rows for {len(blocks)} blocks that stay: give one for each")
    return [_units(what, row, count, f"block {block}") for row, block in zip(rows, blocks, strict=True)]


def _units(what: str, units: Sequence[int], count: int, where: str) -> tuple[int, ...]:
    units = tuple(units)
    if not units:
        left = ", and so no key-value group" if what == "heads" else ""
        raise ModelError(f"{what}: none stays in {where}{left}: keep at least one, or drop the whole block")
    if list(units) != sorted(set(units)) or units[0] < 0 or units[-1] >= count:
        raise ModelError(f"{what} of {where}: name places from 0 to {count - 1}, each once, in increasing order")
    return units


def _groups(heads: Sequence[int], block: int, sizes: Sizes) -> tuple[int, ...]:
    shared = sizes.heads // sizes.groups
    counts = {group: sum(head // shared == group for head in heads) for group in {head // shared for head in heads}}
    if len(set(counts.values())) > 1:
        raise ModelError(
            f"heads of block {block}: its key-value groups would serve {counts} query heads, and a config says one "
            f"number for all: keep as many of the {shared} heads in every group that stays"
        )
    return tuple(sorted(counts))


def _same(what: str, rows: Sequence[Sequence[int]], blocks: Sequence[int], module: nn.Module) -> int:
    counts = {len(row) for row in rows}
    if len(counts) > 1:
        shown = ", ".join(f"{len(row)} in block {block}" for row, block in zip(rows, blocks, strict=True))
        raise ModelError(
            f"{what}: {shown}; a `{config_of(module).model_type}` config has one number for all blocks, as every "
            f"architecture that can be cut here: keep the same number in each, of which units you like"
        )
    return counts.pop()


def _refuse_unsayable(module: nn.Module, before: Sizes, after: Sizes) -> None:
    kind = config_of(module).model_type
    if after.width != before.width:
        refuse_width(module)
    if not attention_of(module).says_head_size and after.width != after.heads * after.head_size:
        raise ModelError(
            f"heads: a `{kind}` config has no head size of its own, it is width / heads, so {after.heads} heads of "
            f"{after.head_size} channels need a width of {after.heads * after.head_size}, and {after.width} are kept: "
            "cut heads and width together, or cut neurons or blocks; heads alone can be cut in "
            + ", ".join(says_head_sizes())
        )
    try:
        edited(body_of(module).config, changes_for(module, after))
    except (StrictDataclassError, ValueError) as error:
        raise ModelError(
            f"width {after.width} with {after.heads} heads: a `{kind}` config refuses it ({_reason(error)}): keep a "
            f"width that {after.heads} divides"
        ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())
