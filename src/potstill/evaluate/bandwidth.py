"""The ceiling of decoding: each new token reads every active weight and the key-value cache once.

At batch 1 the arithmetic is free and the memory bus is not, so tokens/s <= bandwidth / bytes per token. A measured rate
above that means that one of the two was measured wrong. GB are 10^9 bytes; bandwidth is measured, never a data sheet's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from potstill.core.outcome import Finding, Verdict
from potstill.evaluate.timing import Clock, time_interleaved

PREDICTED_WITHIN = 0.3


@dataclass(frozen=True, slots=True)
class DecodeLoad:
    """What one decoded token needs.

    weight_bytes: active weights, read once per step whatever the batch. kv_bytes: per token of context and row.
    context: tokens of context. batch: rows decoded together. active_parameters: for the arithmetic roof.
    """

    weight_bytes: float
    kv_bytes: float = 0.0
    context: int = 0
    batch: int = 1
    active_parameters: float = 0.0

    @property
    def bytes_per_step(self) -> float:
        """Read for one token of each row."""
        return self.weight_bytes + self.batch * self.context * self.kv_bytes


def stored_bytes(parameters: float, bits: float) -> float:
    """Bytes of that many weights at that many bits each; fractions for formats with scales (4.5, 8.5)."""
    return parameters * bits / 8


def kv_bytes_per_token(*, layers: int, kv_heads: int, head_dim: int, bytes_per_value: float = 2) -> float:
    """A key and a value for each layer and key-value head."""
    return 2 * layers * kv_heads * head_dim * bytes_per_value


def decode_bound(load: DecodeLoad, *, bytes_per_second: float, flops_per_second: float | None = None) -> float:
    """Tokens/s of the whole batch that cannot be exceeded: the memory roof, and the compute roof where it is given."""
    memory = load.batch * bytes_per_second / load.bytes_per_step
    if flops_per_second is None or load.active_parameters == 0:
        return memory
    return min(memory, flops_per_second / (2 * load.active_parameters))


def fits(load: DecodeLoad, *, memory_bytes: float, overhead_bytes: float = 0.0, usable: float = 1.0) -> bool:
    """Whether weights, cache and overhead fit in the usable part of memory (0.75 is usual on macOS). Ask this first."""
    return load.bytes_per_step + overhead_bytes <= usable * memory_bytes


def read_bytes(module: nn.Module) -> int:
    """Weight bytes a dense transformers language model reads per token.

    The input table is looked up, not read, unless it is also the output head (tied: then it is read once).
    """
    table = module.get_input_embeddings().weight  # type: ignore[operator]
    head = module.get_output_embeddings()  # type: ignore[operator]
    looked_up = table.numel() * table.element_size() if head is None or head.weight is not table else 0
    return sum(weight.numel() * weight.element_size() for weight in module.parameters()) - looked_up


def measured_bandwidth(size: int, *, threads: int, rounds: int = 7, clock: Clock = time.perf_counter) -> float:
    """The best bytes/s at which this machine goes through `size` bytes, as a matrix-vector product and as a copy.

    `size` is that of the model's weights, since a model that fits a cache is not held by memory. The best round of the
    better of the two stands, because a ceiling must not be lowered by other work on the machine.
    """
    columns = 1024
    rows = max(1, size // (4 * columns))
    matrix, vector, target = torch.ones(rows, columns), torch.ones(columns), torch.empty(rows, columns)
    actions = {"product": lambda: torch.mv(matrix, vector), "copy": lambda: target.copy_(matrix)}
    seconds = time_interleaved(actions, rounds=rounds, threads=threads, clock=clock)
    moved = 4 * rows * columns
    return max(moved / min(seconds["product"]), 2 * moved / min(seconds["copy"]))


def decode_finding(subject: str, measured: float, load: DecodeLoad, *, bytes_per_second: float) -> Finding:
    """cost.decode_efficiency: the measured tokens/s over the bound; above 1 it stops, as a measurement is wrong."""
    bound = decode_bound(load, bytes_per_second=bytes_per_second)
    share = measured / bound
    evidence = {
        "unit": "of the bandwidth bound",
        "tokens_s": measured,
        "bound_tokens_s": bound,
        "bytes_per_token": load.bytes_per_step / load.batch,
        "bandwidth_bytes_s": bytes_per_second,
    }
    verdict: Verdict = "stop" if share > 1 else "pass"
    return Finding("cost.decode_efficiency", share, subject, bound=1.0, verdict=verdict, evidence=evidence)


def prediction_finding(subject: str, predicted: float, measured: float) -> Finding:
    """cost.decode_prediction: the tokens/s that were predicted over those that were measured; further than 30 % from 1
    it warns."""
    ratio = predicted / measured
    verdict: Verdict = "pass" if abs(ratio - 1) <= PREDICTED_WITHIN else "warn"
    evidence = {"unit": "of the measured rate", "predicted_tokens_s": predicted, "tokens_s": measured}
    return Finding("cost.decode_prediction", ratio, subject, bound=PREDICTED_WITHIN, verdict=verdict, evidence=evidence)
