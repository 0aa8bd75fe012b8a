"""Tiny decoders with a byte-level BPE tokenizer, as the students' room loads them."""

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from potstill.export.gguf.vocabulary import PRE_TOKENIZERS
from potstill.export.verify import FIXED_TEXTS
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings

TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|text|>", "<|start|>", "<|end|>")
TEXTS = (*FIXED_TEXTS, "1905 and 2018, 4 6 9 11", "def f(a):\n    return a\n", "it's don't you're  a   b")


def pre_tokenizer(name):
    made = {
        "ByteLevel": lambda one: pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=one["use_regex"]),
        "Digits": lambda one: pre_tokenizers.Digits(individual_digits=True),
        "Split": lambda one: pre_tokenizers.Split(Regex(one["pattern"]["Regex"]), behavior="isolated"),
    }
    steps = [made[one["type"]](one) for one in PRE_TOKENIZERS[name]]
    return steps[0] if len(steps) == 1 else pre_tokenizers.Sequence(steps)


def tokenizer(pre="gpt-2", size=320):
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer, raw.decoder = pre_tokenizer(pre), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    terms = {"special_tokens": list(SPECIAL), "initial_alphabet": alphabet, "show_progress": False}
    raw.train_from_iterator(TEXTS * 4, trainers.BpeTrainer(vocab_size=size, **terms))
    found = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|start|>", eos_token="<|end|>", pad_token="<|end|>", unk_token="<|text|>"
    )
    found.add_tokens(["<think>"])
    found.chat_template = TEMPLATE
    return found


SIZES = {
    "vocab_size": 336,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "tie_word_embeddings": True,
}
KINDS = {
    "llama": lambda **changes: LlamaForCausalLM(LlamaConfig(**{**SIZES, "rope_theta": 5e4, **changes})),
    "qwen2": lambda **changes: Qwen2ForCausalLM(Qwen2Config(**{**SIZES, **changes})),
    "qwen3": lambda **changes: Qwen3ForCausalLM(Qwen3Config(**{**SIZES, "head_dim": 128, **changes})),
}


def decoder(folder, kind="llama", pre="gpt-2", **changes):
    """Random, and sure of itself: what weights of the usual spread answer is flat, and any order would do."""
    torch.manual_seed(0)
    module = KINDS[kind](**changes)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn_like(weight) * 0.15)
    module.save_pretrained(folder)
    tokenizer(pre).save_pretrained(folder)
    return load_model(ModelSettings(model_name_or_path=str(folder)), task="causal-lm", labels=None)
