"""Sampling with a cache: against a model that reads every text from its beginning, row by row, without one."""

import pytest
import torch

from potstill.core.errors import NumbersError
from potstill.students.sample import Sampling, continued, left_padded, nucleus
from tests.students import tiny

PROMPTS = [[5, 9, 12], [7], [30, 31, 32, 33, 34, 35], [8, 8]]


def model(kind="llama"):
    torch.manual_seed(1)
    return tiny.tiny(kind, "causal-lm").eval()


def entries(module):
    return module.config.vocab_size


def alone(module, tokens, known):
    """Log-probabilities of the next token after one row, in fp64, without cache or padding."""
    with torch.no_grad():
        return module.double()(torch.tensor([tokens])).logits[0, -1, :known].log_softmax(-1)


def test_padding_stands_on_the_left():
    tokens, attention = left_padded([[1, 2, 3], [4]])
    assert tokens.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert attention.tolist() == [[True, True, True], [False, False, True]]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "gemma3_text"])
def test_near_temperature_zero_every_token_is_the_likeliest_after_its_own_text(kind):
    module = model(kind)
    sampling = Sampling(temperature=1e-5, max_new_tokens=6, entries=entries(module))
    found = continued(module, PROMPTS, sampling, seed=0)
    for prompt, new in zip(PROMPTS, found, strict=True):
        text = list(prompt)
        for token in new:
            assert token == int(alone(module, text, entries(module)).argmax())
            text.append(token)
    assert [len(new) for new in found] == [6] * 4


def test_the_tokens_are_drawn_from_the_softened_distribution():
    """A thousand rows with one prompt, beside longer ones so that there is padding: shares within five deviations."""
    module, temperature = model(), 0.7
    for parameter in module.parameters():
        parameter.data.mul_(3.0)  # else a random model is nearly uniform
    expected = (alone(module, [5, 9, 12], 60) / temperature).softmax(-1)
    module.float()
    rows = [[5, 9, 12]] * 2000 + [[30, 31, 32, 33, 34]]
    sampling = Sampling(temperature=temperature, max_new_tokens=1, entries=60)
    drawn = torch.tensor([new[0] for new in continued(module, rows, sampling, seed=3)[:2000]])
    shares = torch.bincount(drawn, minlength=60) / 2000
    assert ((shares - expected).abs() <= 5 * (expected * (1 - expected) / 2000).sqrt() + 1 / 2000).all()
    assert expected.max() > 2 / 60, "the distribution is not the uniform one"


def test_a_row_ends_with_its_end_token_and_the_others_go_on():
    module = model()
    free = continued(module, PROMPTS, Sampling(1.0, 12, 60), seed=5)
    end = free[0][3]
    found = continued(module, PROMPTS, Sampling(1.0, 12, 60, ends=(end,)), seed=5)
    for ended, whole in zip(found, free, strict=True):
        assert ended == whole[: whole.index(end) + 1 if end in whole else 12]
    assert found[0][-1] == end
    assert any(end in row for row in free)


def test_tokens_that_no_tokenizer_knows_are_never_drawn():
    found = continued(model(), PROMPTS * 20, Sampling(5.0, 8, entries=10), seed=0)
    assert max(max(row) for row in found) < 10


def test_the_seed_decides_and_nothing_else_moves():
    module = model().train()
    before = torch.get_rng_state()
    one, again, other = (continued(module, PROMPTS, Sampling(1.0, 8, 60), seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())


def test_dropout_is_off_while_it_writes_and_on_afterwards():
    module = tiny.tiny("gpt2", "causal-lm").train()
    one, again = (continued(module, PROMPTS, Sampling(1.0, 8, 60), seed=1) for _ in range(2))
    assert one == again
    assert all(part.training for part in module.modules())


def test_a_broken_student_is_told_so():
    module = model()
    next(module.parameters()).data[5] = float("nan")
    with pytest.raises(NumbersError, match="not finite while it writes"):
        continued(module, PROMPTS, Sampling(1.0, 4, 60), seed=0)
    assert not module.training


def test_the_nucleus_is_the_fewest_tokens_with_the_mass():
    shares = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.97, 0.01, 0.01, 0.01]])
    assert nucleus(shares, 0.7).tolist() == torch.tensor([[0, 0.5, 0, 0.25], [0.97, 0, 0, 0]]).tolist()
    assert torch.equal(nucleus(shares, 0.9999), shares)
    assert (nucleus(shares, 1e-6) > 0).sum(-1).tolist() == [1, 1]


def test_a_seed_for_each_row_makes_its_tokens_its_own():
    module = model()
    together = continued(module, PROMPTS, Sampling(1.0, 6, 60, top_p=0.9), seed=[5, 6, 7, 8])
    swapped = continued(module, PROMPTS[::-1], Sampling(1.0, 6, 60, top_p=0.9), seed=[8, 7, 6, 5])
    assert together == swapped[::-1]
    assert continued(module, PROMPTS[:1], Sampling(1.0, 6, 60, top_p=0.9), seed=[5]) == together[:1]
