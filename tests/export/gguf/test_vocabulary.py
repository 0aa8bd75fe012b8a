"""A tokenizer as llama.cpp is told it."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from potstill.core.errors import ModelError
from potstill.export.gguf.vocabulary import (
    CONTROL,
    NORMAL,
    PRE_TOKENIZERS,
    UNUSED,
    USER_DEFINED,
    pre_tokenizer_of,
    vocabulary_of,
)
from tests.export.gguf.tiny import TEMPLATE, tokenizer


def test_tokens_types_and_merges_by_id():
    given = tokenizer()
    found = vocabulary_of(given, rows=336)
    assert len(found.tokens) == len(found.types) == 336
    assert found.tokens[:3] == ("<|text|>", "<|start|>", "<|end|>")
    assert [found.types[number] for number in (0, 2, 3)] == [CONTROL, CONTROL, NORMAL]
    think = given.convert_tokens_to_ids("<think>")
    assert (found.tokens[think], found.types[think]) == ("<think>", USER_DEFINED)
    assert (found.tokens[think + 1], found.types[think + 1]) == (f"[PAD{think + 1}]", UNUSED)
    assert {len(one.split(" ")) for one in found.merges} == {2}
    assert found.ids == {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, "padding_token_id": 2}
    assert (found.adds_bos, found.adds_eos, found.chat_template) == (False, False, TEMPLATE)


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_each_way_to_cut_text_has_its_name(pre):
    assert vocabulary_of(tokenizer(pre), rows=336).pre == pre


def test_what_is_cut_otherwise_is_refused_by_name():
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ModelError, match=r"as gpt-2, smollm, .* and this is a WordLevel tokenizer \(Whitespace\)"):
        vocabulary_of(PreTrainedTokenizerFast(tokenizer_object=words), rows=1)
    rules = json.loads(tokenizer().backend_tokenizer.to_str())
    rules["pre_tokenizer"]["add_prefix_space"] = True
    with pytest.raises(ModelError, match=r"BPE tokenizer \(ByteLevel\)"):
        pre_tokenizer_of(rules)


def test_two_chat_templates_are_one_too_many():
    given = tokenizer()
    given.chat_template = {"default": TEMPLATE, "tools": TEMPLATE}
    with pytest.raises(ModelError, match=r"2 chat templates \(default, tools\)"):
        vocabulary_of(given, rows=336)
