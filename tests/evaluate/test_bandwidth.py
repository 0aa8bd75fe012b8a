import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from potstill.evaluate.bandwidth import (
    DecodeLoad,
    decode_bound,
    decode_finding,
    fits,
    kv_bytes_per_token,
    measured_bandwidth,
    prediction_finding,
    read_bytes,
    stored_bytes,
)

GB = 1e9


@pytest.mark.parametrize(
    ("parameters", "bits", "bandwidth", "size_gb", "tokens_s"),
    [
        (8.03e9, 16, 273 * GB, 16.06, 17.0),
        (70.6e9, 4.5, 273 * GB, 39.7, 6.87),
        (70.6e9, 8.5, 273 * GB, 75.0, 3.64),
    ],
)
def test_known_ceilings(parameters, bits, bandwidth, size_gb, tokens_s):
    load = DecodeLoad(weight_bytes=stored_bytes(parameters, bits))
    assert load.weight_bytes / GB == pytest.approx(size_gb, abs=0.05)
    assert decode_bound(load, bytes_per_second=bandwidth) == pytest.approx(tokens_s, abs=0.01 * tokens_s)


def test_tinyllama_reached_under_half_of_its_ceiling():
    finding = decode_finding("student", 71.8, DecodeLoad(weight_bytes=637e6), bytes_per_second=100 * GB)
    assert finding.evidence["bound_tokens_s"] == pytest.approx(157, abs=0.5)
    assert finding.value == pytest.approx(0.457, abs=1e-3)
    assert finding.verdict == "pass"


def test_a_rate_above_the_ceiling_stops():
    finding = decode_finding("student", 160.0, DecodeLoad(weight_bytes=637e6), bytes_per_second=100 * GB)
    assert finding.verdict == "stop"
    assert finding.value > finding.bound == 1.0


def test_a_prediction_further_than_30_percent_off_warns():
    found = {rate: prediction_finding("student", 10.0, rate) for rate in (7.5, 10.0, 14.0, 15.0)}
    assert found[10.0].value == 1.0
    assert [found[rate].verdict for rate in (7.5, 10.0, 14.0, 15.0)] == ["warn", "pass", "pass", "warn"]


def test_cache_of_llama_3_1_8b():
    assert kv_bytes_per_token(layers=32, kv_heads=8, head_dim=128) == 131_072


def test_context_and_batch_move_the_ceiling_as_the_formula_says():
    alone = DecodeLoad(weight_bytes=16 * GB, kv_bytes=131_072, context=0)
    full = DecodeLoad(weight_bytes=16 * GB, kv_bytes=131_072, context=131_072)
    many = DecodeLoad(weight_bytes=16 * GB, kv_bytes=131_072, context=1000, batch=8)
    assert decode_bound(alone, bytes_per_second=160 * GB) == pytest.approx(10)
    assert decode_bound(full, bytes_per_second=160 * GB) == pytest.approx(160 / (16 + 17.179869))
    assert decode_bound(many, bytes_per_second=160 * GB) == pytest.approx(8 * 160 / (16 + 8 * 0.131072))


def test_halving_the_bits_doubles_the_ceiling():
    bounds = [decode_bound(DecodeLoad(weight_bytes=stored_bytes(1e9, bits)), bytes_per_second=GB) for bits in (8, 4)]
    assert bounds[1] == 2 * bounds[0]


def test_the_compute_roof_holds_a_large_batch():
    load = DecodeLoad(weight_bytes=16 * GB, batch=1000, active_parameters=8e9)
    assert decode_bound(load, bytes_per_second=160 * GB, flops_per_second=16e12) == pytest.approx(1000)


def test_feasibility_comes_first():
    four, eight = (DecodeLoad(weight_bytes=stored_bytes(70.6e9, bits)) for bits in (4.5, 8.5))
    assert not fits(four, memory_bytes=32 * GB)
    assert fits(four, memory_bytes=64 * GB, usable=0.75)
    assert not fits(eight, memory_bytes=64 * GB)


def test_a_tied_table_is_read_once_and_an_untied_one_is_only_looked_up():
    size = {"vocab_size": 50, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
    tied = GPT2LMHeadModel(GPT2Config(**size))
    untied = GPT2LMHeadModel(GPT2Config(**size, tie_word_embeddings=False))
    assert read_bytes(tied) == 4 * sum(weight.numel() for weight in tied.parameters())
    assert read_bytes(untied) == read_bytes(tied)


def test_bandwidth_counts_each_byte_read_and_takes_the_best_round():
    ticks = iter(range(10_000))
    found = measured_bandwidth(4096 * 4, threads=1, rounds=3, clock=lambda: float(next(ticks)))
    assert found == 2 * 4096 * 4, "every action takes one tick: the copy reads and writes its bytes in it"
