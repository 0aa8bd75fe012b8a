"""The mark in generated text: the boost alone, found by its key in what a model writes."""

import pytest
import torch
from transformers import LogitsProcessorList

from potstill.guard.watermark import Mark, count
from potstill.marking import GreenList
from tests.students.tiny import tiny

MARK = Mark(20261125)


def test_green_logits_rise_by_the_boost_and_short_rows_are_left_alone():
    before, scores = torch.tensor([[5, 6, 7], [6, 7, 5]]), torch.randn(2, 400)
    risen = GreenList(MARK)(before, scores) - scores
    assert set(risen.unique().round(decimals=4).tolist()) == {0.0, MARK.boost}
    assert risen.count_nonzero() / risen.numel() == pytest.approx(MARK.share, abs=0.06)
    assert not torch.equal(risen[0], risen[1])
    assert torch.equal(GreenList(MARK)(before[:, :1], scores), scores)


def written(module, mark, prompt, rows, length, seed=0, **options):
    torch.manual_seed(seed)
    processors = LogitsProcessorList([GreenList(mark)] if mark else [])
    new = module.generate(
        prompt.expand(rows, -1), do_sample=True, max_new_tokens=length, logits_processor=processors, **options
    )
    return [row[prompt.shape[1] :] for row in new.tolist()]


def test_what_a_model_writes_under_the_mark_is_found_and_by_nothing_else():
    module = tiny("llama", "causal-lm")
    prompt = torch.tensor([[3, 4, 5]])
    marked = written(module, MARK, prompt, 4, 40, pad_token_id=0)
    assert count(MARK, marked).p < 1e-10
    assert count(Mark(1), marked).p > 1e-3
    assert count(MARK, written(module, None, prompt, 4, 40, pad_token_id=0)).p > 1e-3


@pytest.mark.slow
def test_smollm2_writes_marked_text_that_the_key_finds():
    """SmolLM2-135M-Instruct, four prompts, 60 tokens each."""
    from potstill.students.load import load_model
    from potstill.students.settings import ModelSettings

    loaded = load_model(
        ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct"), task="causal-lm", labels=None
    )
    prompts = ("How is whisky made?", "Tell me a story of a river.", "Why is the sky blue?", "Plan a day in Rome.")
    marked, plain = [], []
    for prompt in prompts:
        tokens = torch.tensor([loaded.tokenizer(prompt)["input_ids"]])
        marked += written(loaded.module, MARK, tokens, 1, 60)
        plain += written(loaded.module, None, tokens, 1, 60)
    assert count(MARK, marked).p < 1e-5
    assert count(MARK, plain).p > 1e-3
    assert count(Mark(1), marked).p > 1e-3
