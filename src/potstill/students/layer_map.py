"""Which block of the large model a block of the small one comes from, or is compared with. Plain integers.

Blocks count from 0; hidden states count from 0 too, where 0 is the embedding output and i the output of block i - 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from potstill.core.errors import ModelError


def every(k: int, depth: int) -> tuple[int, ...]:
    """Blocks 0, k, 2k, ... of `depth` blocks. Raises ModelError when k keeps nothing but the first of many."""
    if not 1 <= k < max(depth, 2):
        raise ModelError(f"every: {k} does not fit a model of {depth} blocks: use 1 to {max(depth - 1, 1)}")
    return tuple(range(0, depth, k))


def evenly(keep: int, depth: int) -> tuple[int, ...]:
    """`keep` of `depth` blocks, the first among them, as evenly spaced as whole numbers allow: floor(i depth / keep).

    Raises ModelError when there are not that many, or none is kept.
    """
    if not 1 <= keep <= depth:
        raise ModelError(f"layers: {keep} of {depth} blocks cannot be kept: use 1 to {depth}")
    return tuple(block * depth // keep for block in range(keep))


def checked(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """The named blocks, in range and strictly increasing. Raises ModelError with the offending values."""
    if not layers:
        raise ModelError("layers is empty: name at least one block to keep")
    for layer in layers:
        if not 0 <= layer < depth:
            raise ModelError(f"layers: block {layer} is out of range: the model has {depth} blocks, 0 to {depth - 1}")
    for before, after in itertools.pairwise(layers):
        if after <= before:
            raise ModelError(
                f"layers: {after} comes after {before}: each block may be named once, in increasing order; "
                f"write {sorted(set(layers))}"
            )
    return tuple(layers)


def uniform(student_depth: int, teacher_depth: int) -> tuple[tuple[int, int], ...]:
    """Pairs (student state, teacher state) for states 0 ... student_depth, the embedding and the last state included.

    TinyBERT's uniform map g(m) = m N / M (Jiao et al. 2020, section 3.1), rounded to the nearest state where the
    depths do not divide. Raises ModelError when the student is deeper than the teacher.
    """
    if student_depth > teacher_depth:
        raise ModelError(
            f"a student of {student_depth} blocks cannot be paired with a teacher of {teacher_depth}: "
            f"give the student at most {teacher_depth} blocks"
        )
    return tuple((m, (2 * m * teacher_depth + student_depth) // (2 * student_depth)) for m in range(student_depth + 1))


def explicit(layers: Sequence[int], student_depth: int, teacher_depth: int) -> tuple[tuple[int, int], ...]:
    """Pairs (student state, teacher state): the named state for each block of the student, and 0 with 0.

    Raises ModelError: another number of states than the student has blocks, one that does not exist, one that is named
    twice or out of order.
    """
    if len(layers) != student_depth:
        raise ModelError(
            f"map names {len(layers)} teacher states and the student has {student_depth} blocks: name one for each"
        )
    for layer in layers:
        if not 1 <= layer <= teacher_depth:
            raise ModelError(
                f"map: state {layer} is out of range: the teacher's blocks have the states 1 to {teacher_depth} "
                "(0 is the embedding, which is paired by itself)"
            )
    for before, after in itertools.pairwise(layers):
        if after <= before:
            raise ModelError(f"map: {after} comes after {before}: name each state once, in increasing order")
    return ((0, 0), *enumerate(layers, start=1))


def copied(layers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Pairs (student state, teacher state) of a student whose blocks were copied: block output with block output."""
    return ((0, 0), *((student + 1, teacher + 1) for student, teacher in enumerate(layers)))
