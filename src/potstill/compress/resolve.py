"""From masks that need not agree to units that are there or gone: a logical OR over the members of a group.

A neuron goes when its rows in, its bias and its column out are all masked; a head when its queries, keys, values and
outputs are. Whatever was masked of a unit that stays comes back (its weights were only hidden). Then every block is
given the same number of units, because a config has one number for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from potstill.compress.movement import Gate, Group, above, closed_share, lowered
from potstill.core.errors import ModelError
from potstill.students.surgery import best


@dataclass(frozen=True, slots=True)
class Resolved:
    """masked: the share of gated weights that was masked, one by one; joined: after the OR; settled: with the same
    number in every block. kept: by kind, how many stay in each. notes: what happened on the way, in words."""

    masked: float
    joined: float
    settled: float
    kept: Mapping[str, int]
    notes: tuple[str, ...]


def joined(masks: Sequence[Bool[Tensor, " U"]]) -> Bool[Tensor, " U"]:
    """A unit stays where any member keeps it."""
    return torch.stack(list(masks)).any(0)


def resolve(groups: Sequence[Group], keep: Mapping[str, int] | None = None) -> Resolved:
    """Settle every gate. keep: how many units of a kind stay in each block; else as many as the block has that needs
    most, so that no unit goes which a member would keep.

    The units that stay are those with the best score over its threshold in any member, which at equal numbers are
    those that the OR keeps. Nothing but scores and thresholds decides, so to resolve again changes nothing.
    Raises ModelError for a number that is not there.
    """
    kept: dict[str, int] = {}
    notes: list[str] = []
    total = masked = gone = 0
    for kind in dict.fromkeys(group.kind for group in groups):
        own = [group for group in groups if group.kind == kind]
        votes = {group.block: [above(gate.scores, gate.threshold) for gate in group.members.values()] for group in own}
        asked = [int(joined(votes[group.block]).sum()) for group in own]
        kept[kind] = _number(kind, asked, own[0].units, (keep or {}).get(kind))
        notes += _said(kind, asked, kept[kind], own)
        for group, stay in zip(own, asked, strict=True):
            blocks = [gate.block for gate in group.members.values()]
            total += group.units * sum(blocks)
            pairs = zip(blocks, votes[group.block], strict=True)
            masked += sum(block * int((~vote).sum()) for block, vote in pairs)
            gone += (group.units - stay) * sum(blocks)
            _settle(group, best(margins(group), kept[kind]))
    return Resolved(masked / total, gone / total, closed_share(groups), kept, tuple(notes))


def margins(group: Group) -> Float[Tensor, " U"]:
    """How far each unit's best score is above its member's threshold."""
    gates = group.members.values()
    return torch.stack([gate.scores.detach() - lowered(gate.scores.detach(), gate.threshold) for gate in gates]).amax(0)


def units_kept(groups: Sequence[Group], kind: str) -> list[tuple[int, ...]] | None:
    """By block, the units that stay; None for a kind that is not pruned."""
    own = sorted((group for group in groups if group.kind == kind), key=lambda group: group.block)
    return [tuple(_any_gate(group).kept.nonzero()[:, 0].tolist()) for group in own] or None


def _settle(group: Group, stay: Sequence[int]) -> None:
    for gate in group.members.values():
        gate.kept.zero_()
        gate.kept[list(stay)] = True
        gate.settle()


def _any_gate(group: Group) -> Gate:
    return next(iter(group.members.values()))


def _number(kind: str, asked: Sequence[int], units: int, keep: int | None) -> int:
    if keep is None:
        return max(asked)
    refuse_number(kind, units, keep)
    return keep


def refuse_number(kind: str, units: int, keep: int) -> None:
    """Raises ModelError for a number of units that cannot stay."""
    if not 1 <= keep <= units:
        left = " No key-value group would be left." if kind in ("heads", "groups") and keep < 1 else ""
        raise ModelError(f"{kind}: {keep} of {units} cannot be kept: use 1 to {units}.{left}")


def _said(kind: str, asked: Sequence[int], kept: int, groups: Sequence[Group]) -> list[str]:
    units, notes = groups[0].units, []
    if set(asked) == {kept}:
        notes.append(f"{kind}: {kept} of {units} stay in each block, as the scores say")
    else:
        notes.append(
            f"{kind}: the scores keep {', '.join(map(str, asked))} of {units}, block by block ({sum(asked)} in all), "
            f"and a config has one number for all blocks: {kept} stay in each ({kept * len(asked)} in all)"
        )
    capped = [str(group.block) for group in groups if all(_capped(gate) for gate in group.members.values())]
    if capped:
        notes.append(
            f"{kind}: the threshold would have emptied block {', '.join(capped)}: capped, the best 2 % and at least "
            "one stay"
        )
    return notes


def _capped(gate: Gate) -> bool:
    """Whether the threshold itself is above every score."""
    return not bool((gate.scores > gate.threshold).any())
