"""A decoder so small that whole trainings take a minute: untrained Llama weights and a tokenizer of English prose."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from potstill.data.packaged import english_prose

PIECES, POSITIONS, END = 1000, 128, "<end>"


def untrained(folder: Path) -> Path:
    """The folder, written once: byte-level BPE of `PIECES` pieces over the training split, weights from seed 0."""
    if not (folder / "model.safetensors").exists():
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=PIECES, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        )
        tokenizer.train_from_iterator((one.text for one in english_prose()["train"]), trainer)
        wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)
        config = LlamaConfig(
            vocab_size=PIECES,
            hidden_size=160,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            intermediate_size=432,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=True,
            bos_token_id=wrapped.eos_token_id,
            eos_token_id=wrapped.eos_token_id,
            pad_token_id=wrapped.pad_token_id,
        )
        torch.manual_seed(0)
        wrapped.save_pretrained(folder)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
