"""What compress must agree on with the rest of a stage."""

from __future__ import annotations

from collections.abc import Iterable

from potstill.recipe_rules import Contradiction, Stage


def compress_rules(stage: Stage) -> Iterable[Contradiction]:
    """What is shaped can learn, and what is on a grid is what is heard."""
    training, settings = stage.training, stage.training.compress
    if settings is None:
        return
    here = (*stage.path, "compress")
    if settings.movement is not None and "body" in training.student.freeze:
        reason = "prunes by how weights move, and student.freeze holds body still: free it, or take prune"
        yield Contradiction((*here, "movement"), reason)
    if settings.quantise is not None and "head" not in settings.quantise.keep:
        states = {"fused": training.objective.fused, "projection": training.objective.projection is not None}
        for name in (name for name, used in states.items() if used):
            reason = f"reads last states and the head in floats, and {'.'.join(map(str, here))}.quantise.keep leaves "
            yield Contradiction((*stage.path, "objective", name), f"{reason}head out: add it, or remove {name}")
