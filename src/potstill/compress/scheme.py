"""What is to be quantised, and how finely: one frozen value that PTQ, QAT and the export share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from potstill.compress.grids import Grid
from potstill.compress.ranges import RangeMethod
from potstill.core.errors import InputError

Kept = Literal["embeddings", "head"]


@dataclass(frozen=True, slots=True)
class Activations:
    """How the inputs of a quantised linear are rounded.

    method: `dynamic`, a step per token found as it passes; else static, one step per tensor, of the range which that
    method finds on a calibration set. `mse` is the default because it lost least on a real encoder, of which percentile
    and entropy cut away what counts (docs/quantisation.md). percentile: of the method of that name. symmetric: codes
    around 0; inputs behind GELU and SiLU lie mostly on one side, so affine is the default.
    """

    method: RangeMethod | Literal["dynamic"] = "mse"
    bits: int = 8
    symmetric: bool = False
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if self.method != "percentile" and self.percentile != 99.99:
            raise InputError(f"percentile {self.percentile:g} with method {self.method}: it belongs to `percentile`")
        _ = self.grid  # refuses what no grid can be

    @property
    def static(self) -> bool:
        """Whether ranges are found before the model runs."""
        return self.method != "dynamic"

    @property
    def grid(self) -> Grid:
        """The grid of one input."""
        return Grid(self.bits, self.symmetric, "tensor" if self.static else "row")


@dataclass(frozen=True, slots=True)
class QuantScheme:
    """weights: their grid. activations: None leaves inputs in floats (weight-only).

    Linears inside the blocks are always quantised, norms and biases never. keep: what else stays in floats; the head is
    every linear outside the blocks. Tied embeddings and head are kept or quantised together. skip: names of layers, or
    of what holds them, that stay in floats as well. overflow_fix: weights of 7 bits, so that CPUs without VNNI, which
    add products in pairs into 16 bits, clip none of them (NNCF's name for the same). Raises InputError for what does
    not go together.
    """

    weights: Grid = Grid()  # noqa: RUF009  a frozen value
    activations: Activations | None = None
    keep: tuple[Kept, ...] = ("embeddings", "head")
    skip: tuple[str, ...] = ()
    overflow_fix: bool = False

    def __post_init__(self) -> None:
        if self.overflow_fix and self.activations is None:
            raise InputError("overflow_fix with activations in floats: no integers are added, so remove overflow_fix")
        if self.overflow_fix and self.weights.bits != 8:
            raise InputError(
                f"overflow_fix with weights of {self.weights.bits} bits: it takes one of 8 bits away, and fewer never "
                "overflow; remove overflow_fix"
            )

    @property
    def weight_grid(self) -> Grid:
        """The grid that weights are put on: `weights`, or one bit less with the overflow fix."""
        return replace(self.weights, bits=7) if self.overflow_fix else self.weights


_INT4 = Grid(4, per="group", group=32, step_bits=16)

SCHEMES: Mapping[str, QuantScheme] = {
    "int8-static": QuantScheme(activations=Activations("mse")),
    "int8-dynamic": QuantScheme(activations=Activations("dynamic")),
    "int8-weights": QuantScheme(),
    "int4-weights": QuantScheme(weights=_INT4),
}
