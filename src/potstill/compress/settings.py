"""How a student is made smaller while it learns. Numbers and names only, no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings

Part = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(gt=0)]
Unit = Literal["neurons", "heads", "groups", "width", "blocks"]
Gated = Literal["neurons", "heads", "groups"]
Kept = Literal["embeddings", "head"]


class PruneSettings(Settings):
    """Units taken out once, before the training, by their scores on rows of the training split (docs/pruning.md).

    keep: how many of a kind stay; heads, groups and neurons of each block. remove: the share that goes, instead. rows:
    of the training split, that scores are measured on; of a classifier those with a label.
    """

    keep: dict[Unit, Positive] = {}  # noqa: RUF012  pydantic copies it
    remove: dict[Unit, Part] = {}  # noqa: RUF012
    rows: Positive = 128

    @model_validator(mode="after")
    def something_goes(self) -> PruneSettings:
        """A kind is named once, and one at least."""
        if not self.keep and not self.remove:
            raise ValueError("keep and remove are both empty: say what goes, such as remove: {neurons: 0.5}")
        if both := sorted(self.keep.keys() & self.remove.keys()):
            raise ValueError(f"{', '.join(both)} is in keep and in remove: a number or a share, not both")
        return self


class QuantiseSettings(Settings):
    """Quantisation-aware training: the student computes on the integers that it will be shipped as.

    scheme: `int8-static`, weights a step per row, inputs of linears one step each from calibration rows;
    `int8-dynamic`, a step per token; `int8-weights` and `int4-weights` (groups of 32), inputs stay in floats. keep:
    what stays in floats beside norms and biases. steps: `learned` (LSQ, Esser et al. 2020, arXiv:1902.08153), or
    `straight-through` from the extremes of weights and a moving average (Jacob et al. 2018, arXiv:1712.05877). rows:
    that a static scheme is calibrated on. freeze_at: the share of the training after which no range moves.
    """

    scheme: Literal["int8-static", "int8-dynamic", "int8-weights", "int4-weights"] = "int8-static"
    keep: tuple[Kept, ...] = ("embeddings", "head")
    steps: Literal["learned", "straight-through"] = "learned"
    rows: Positive | None = None
    freeze_at: Part = 2 / 3

    @property
    def calibration_rows(self) -> int:
        """0 where nothing is calibrated; 256 unless set."""
        return 0 if self.scheme != "int8-static" else self.rows or 256

    @model_validator(mode="after")
    def rows_are_read(self) -> QuantiseSettings:
        """Only a static scheme has ranges to find."""
        if self.rows is not None and self.scheme != "int8-static":
            raise ValueError(f"rows calibrate static inputs, and scheme {self.scheme} has none: remove rows")
        return self


class MovementSettings(Settings):
    """Movement pruning of whole units while the student learns (Sanh et al. 2020, arXiv:2005.07683; the schedule and
    the resolution are those of NNCF's joint pruning, quantisation and distillation, with its defaults).

    units: what goes: `neurons` of the feed-forward layers, `heads`, or `groups` of heads that share keys and values.
    start, end: of the warm-up, as shares of the training; scores learn from the first step, thresholds rise between
    these two, and at the end masks become units that are there or gone. regulariser: lambda at the end of the warm-up;
    more of it prunes more. threshold: of the scores at the end of the warm-up. first_sparsity: share of the scores that
    is masked at its start. keep: how many units of a kind stay in each block, by the best scores; without it the scores
    decide, and every block keeps as many as the one that needs most.
    """

    units: Annotated[tuple[Gated, ...], Field(min_length=1)] = ("neurons",)
    start: Annotated[float, Field(ge=0, lt=1)] = 0.2
    end: Part = 0.4
    regulariser: Annotated[float, Field(ge=0)] = 0.05
    threshold: float = 0.0
    first_sparsity: Annotated[float, Field(ge=0, lt=1)] = 0.001
    keep: dict[Gated, Positive] = {}  # noqa: RUF012  pydantic copies it

    @model_validator(mode="after")
    def in_order(self) -> MovementSettings:
        """The warm-up has a length, and what is kept is pruned at all."""
        if self.start >= self.end:
            raise ValueError(f"the warm-up runs from start {self.start:g} to end {self.end:g}: start must be earlier")
        if len(set(self.units)) < len(self.units) or {"heads", "groups"} <= set(self.units):
            raise ValueError(f"units {', '.join(self.units)}: each once, and heads or groups, not both")
        if strange := sorted(set(self.keep) - set(self.units)):
            raise ValueError(f"keep names {', '.join(strange)}, which units does not prune: add it there, or remove it")
        return self


class CompressSettings(Settings):
    """What makes the student smaller, beside its own settings. prune: once, before the training. movement: while it
    learns, instead. quantise: fewer bits, with either or alone. movement and quantise together, with a teacher, are
    JPQD, joint pruning, quantisation and distillation.
    """

    prune: PruneSettings | None = None
    movement: MovementSettings | None = None
    quantise: QuantiseSettings | None = None

    @model_validator(mode="after")
    def agrees_with_itself(self) -> CompressSettings:
        """One way of pruning; ranges that stop after the units are settled; steps that no cut takes apart."""
        movement, quantise = self.movement, self.quantise
        if self.prune is None and movement is None and quantise is None:
            raise ValueError("has none of prune, movement and quantise: name one, or remove compress")
        if self.prune is not None and movement is not None:
            raise ValueError("prune and movement contradict each other: once before, or while it learns; keep one")
        if movement is not None and quantise is not None:
            if quantise.freeze_at < movement.end:
                raise ValueError(
                    f"quantise.freeze_at is {quantise.freeze_at:g}, before units are settled at movement.end "
                    f"{movement.end:g}: ranges of weights that go would stand; raise it"
                )
            if quantise.scheme == "int4-weights":
                raise ValueError(
                    "int4-weights shares a step among 32 inputs in a row, and movement takes single inputs out: "
                    "choose an int8 scheme, or prune in a stage before"
                )
        return self
