"""A byte-level BPE tokenizer as the arrays of a .gguf file.

llama.cpp does not read a tokenizer's rules: it knows them by a name, `tokenizer.ggml.pre`, that says how text is cut
before pieces are merged. A wrong name is not an error there, it is other tokens; so the rules are matched exactly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.core.errors import ModelError

# Of gguf.TokenType: what a token is to llama.cpp.
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_CUT_BYTES = _BYTES | {"use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}
_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _cut(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


# llama.cpp's name -> the pre-tokenizer of a tokenizer.json, in its order.
PRE_TOKENIZERS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "gpt-2": (_BYTES,),
    "smollm": (_DIGITS, _BYTES),
    "qwen2": (_cut(_LETTERS % ""), _CUT_BYTES),
    "llama-bpe": (_cut(_LETTERS % "{1,3}"), _CUT_BYTES),
}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """tokens and types by id, as many as the model has rows. merges: best first, two pieces with a space between. ids:
    of the special tokens, by llama.cpp's key. adds_bos, adds_eos: what the tokenizer puts around a text."""

    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    merges: tuple[str, ...]
    ids: Mapping[str, int]
    adds_bos: bool
    adds_eos: bool
    chat_template: str | None


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, rows: int) -> Vocabulary:
    """What a file says of a tokenizer. rows: of the model's embedding table; those that no token has are filled.

    Raises ModelError for a tokenizer whose rules llama.cpp has no name for, or with more than one chat template.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    pre = pre_tokenizer_of(rules)
    template = tokenizer.chat_template
    if template is not None and not isinstance(template, str):
        raise ModelError(
            f"the tokenizer has {len(template)} chat templates ({', '.join(template)}) and a .gguf file holds one. "
            "Next: keep one in tokenizer.chat_template."
        )
    by_id = {number: token for token, number in tokenizer.get_vocab().items()}
    added = {one["id"]: one for one in rules["added_tokens"]}
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "unknown_token_id": tokenizer.unk_token_id,
        "padding_token_id": tokenizer.pad_token_id,
    }
    around = tokenizer("a")["input_ids"]
    return Vocabulary(
        pre=pre,
        tokens=tuple(by_id.get(number, f"[PAD{number}]") for number in range(rows)),
        types=tuple(_type(added.get(number), number in by_id) for number in range(rows)),
        merges=tuple(one if isinstance(one, str) else " ".join(one) for one in rules["model"]["merges"]),
        ids={key: number for key, number in ids.items() if number is not None},
        adds_bos=around[0] == tokenizer.bos_token_id,
        adds_eos=around[-1] == tokenizer.eos_token_id,
        chat_template=template,
    )


def pre_tokenizer_of(rules: Mapping[str, Any]) -> str:
    """llama.cpp's name for the rules of a tokenizer.json. Raises ModelError when it has none."""
    kind, normalizer = rules["model"]["type"], (rules.get("normalizer") or {}).get("type")
    steps = rules.get("pre_tokenizer") or {}
    found = [_told(one) for one in steps.get("pretokenizers", [steps] if steps else [])]
    # Qwen's NFC changes no text that is composed already, and llama.cpp leaves it out.
    if kind == "BPE" and not rules["model"].get("byte_fallback") and normalizer in (None, "NFC"):
        for name, known in PRE_TOKENIZERS.items():
            if found == [_told(one) for one in known]:
                return name
    raise ModelError(
        f"GGUF is written for byte-level BPE tokenizers that cut text as {', '.join(PRE_TOKENIZERS)} do, and this is "
        f"a {kind} tokenizer ({' + '.join(one['type'] for one in found) or 'no pre-tokenizer'}). "
        "Next: leave the format out of export.formats."
    )


def _told(step: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what changes offsets alone."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}


def _type(added: Mapping[str, Any] | None, known: bool) -> int:
    if not known:
        return UNUSED
    if added is None:
        return NORMAL
    return CONTROL if added["special"] else USER_DEFINED
