"""The tables of benchmarks/ptq.py and ptq_decoder.py on tiny models."""

from dataclasses import replace

import pytest
import torch

from potstill.compress.grids import Grid
from potstill.compress.ptq import size_bytes
from potstill.compress.scheme import SCHEMES, QuantScheme
from tests.benchmarks.scripts import script
from tests.compress.test_ptq import logits, rows
from tests.students.tiny import tiny


def numbered(batch):
    return replace(batch, rows=tuple(range(len(batch.ids))))


def test_a_classifier_is_held_against_itself_in_floats():
    ptq, module, batch = script("ptq"), tiny("bert", "classify"), numbered(rows())
    exact = ptq.scores(module, [batch])
    same = ptq.measured(module, None, exact, [batch], [batch])
    assert (same.agreement, same.kl, same.bits, same.bytes) == (1, 0, 32, size_bytes(module))
    right = logits(module, batch)[:, 0].argmax(-1) == batch.targets_BT[:, 0]
    assert same.accuracy == pytest.approx(right.float().mean().item())
    arms = {bits: ptq.measured(module, QuantScheme(Grid(bits)), exact, [batch], [batch]) for bits in (2, 4, 8)}
    assert arms[2].kl > arms[4].kl > arms[8].kl > 0
    assert arms[4].bytes < arms[8].bytes < same.bytes
    static = ptq.measured(module, SCHEMES["int8-static"], exact, [batch], [batch])
    table = ptq.table({"fp32": same, "int8": static})
    assert len(table) == 4
    assert table[2].startswith(f"| fp32 | {same.accuracy:.3f} | +0.000")


def test_a_decoder_and_what_does_not_fit():
    decoder, module, batch = script("ptq_decoder"), tiny("llama", "causal-lm"), rows(padded=(0, 0, 0))
    targets = torch.roll(batch.tokens_BL, -1, 1)
    ones = torch.ones(targets.shape)
    batch = replace(batch, targets_BT=targets, weights={"hard": ones, "soft": ones})
    exact = decoder.remembered(module, [batch])
    same = decoder.measured(module, None, exact, [batch], [])
    assert same["agreement"] == 1
    assert same["kl"] == pytest.approx(0, abs=1e-6)
    slow = torch.nn.functional.cross_entropy(logits(module, batch).flatten(0, 1), targets.flatten()).exp().item()
    assert same["perplexity"] == pytest.approx(slow, rel=1e-4)
    assert decoder.measured(module, QuantScheme(Grid(4)), exact, [batch], [])["kl"] > 0
    refused = decoder.measured(module, SCHEMES["int4-weights"], exact, [batch], [])
    assert "groups of 32" in decoder.line("int4", refused)
