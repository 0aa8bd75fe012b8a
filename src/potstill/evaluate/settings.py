"""What is measured after training. No torch."""

from typing import Annotated

from pydantic import Field

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]


class CostSettings(Settings):
    """Latency and throughput, teacher and student in turn. threads: of torch while timing, and of every other program
    that `potstill evaluate --cost` times. core_watts: what a busy core draws, for an estimate of energy where no
    counter can be read; your machine's data sheet knows better."""

    threads: Positive = 2
    rounds: Annotated[int, Field(ge=3)] = 30
    batch_size: Positive = 16
    length: Positive = 128
    new_tokens: Positive = 32
    core_watts: Annotated[float, Field(gt=0)] = 5.0


class EvaluateSettings(Settings):
    """bootstrap: resamples behind each 95 % interval. calibration_bins: of the ECE (15 in Guo et al. 2017)."""

    bootstrap: Annotated[int, Field(ge=100)] = 1000
    calibration_bins: Annotated[int, Field(ge=2)] = 15
    cost: CostSettings | None = CostSettings()
    shown_rows: Annotated[int, Field(ge=0)] = 6
