"""A black box whose truth is known: the next byte depends on the last one only. It speaks like servers that exist."""

from itertools import pairwise

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.teachers.fake_endpoint import MODEL

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SIZE = len(ALPHABET) + 2
END = SIZE - 1


def bytes_tokenizer(swapped=False, merged=False):
    """One token per byte, and two special ones. Another tokenizer: `swapped` numbers two letters the other way round,
    `merged` reads "th" as one token."""
    vocabulary = {piece: index for index, piece in enumerate(ALPHABET)}
    if swapped:
        vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    merges = [("t", "h")] if merged else []
    backend = Tokenizer(models.BPE(vocab=vocabulary | ({"th": len(vocabulary)} if merged else {}), merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<|pad|>", eos_token="<|end|>")


def truth():
    """Logits [last byte, next byte]; bytes that are parts of characters are unlikely."""
    generator = torch.Generator().manual_seed(11)
    logits = 2 * torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    parts = [index for index, piece in enumerate(ALPHABET) if len(piece.encode()) > 1 and piece != "Ġ" and piece != "Ċ"]
    logits[:, [*parts, SIZE - 2, END]] -= 12
    return logits


class Bigrams:
    """Answers `/completions`. kind: which server it speaks like: "vllm", "openai" (echo in its place), "shifted" (echo
    one place late, as llama-cpp-python), "generated" (its own tokens only), "text" (no log-probabilities at all).
    spoil: changes a reply before it is sent."""

    def __init__(self, kind, tokenizer=None, spoil=lambda reply, number: reply):
        self.kind, self.spoil = kind, spoil
        self.tokenizer = tokenizer or bytes_tokenizer()
        self.logprobs = torch.log_softmax(truth(), dim=-1)

    def __call__(self, route, body, number):
        return self.spoil(self._reply(body), number)

    def _reply(self, body):
        prompt = body["prompt"]
        if isinstance(prompt, list) and self.kind in ("shifted", "generated"):
            return 400, {"error": {"message": "Input should be a valid string"}}
        ids = prompt if isinstance(prompt, list) else self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None}
        k = body.get("logprobs") or body.get("prompt_logprobs") or 0
        if self.kind == "vllm" and "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [None, *(self._by_id(a, b, k) for a, b in pairwise(ids))]
        elif "logprobs" in body and self.kind != "text":
            if body.get("echo") and self.kind in ("openai", "shifted"):
                choice["logprobs"] = self._echo(ids, k)
            elif not body.get("echo"):
                choice["logprobs"] = self._generated(ids[-1], k)
        usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
        return {"model": MODEL, "choices": [choice], "usage": usage}

    def _best(self, last, k):
        return [(int(index), float(self.logprobs[last, index])) for index in self.logprobs[last].topk(k).indices]

    def _text(self, index):
        return self.tokenizer.decode([index]).replace("\ufffd", "" if self.kind == "shifted" else "\ufffd")

    def _by_id(self, last, actual, k):
        """vLLM: the token that is there first, then the likeliest."""
        found = {actual: float(self.logprobs[last, actual]), **dict(self._best(last, k))}
        ranks = self.logprobs[last].argsort(descending=True).argsort()
        return {
            str(index): {"logprob": value, "rank": int(ranks[index]) + 1, "decoded_token": self._text(index)}
            for index, value in found.items()
        }

    def _named(self, last, k, actual=None):
        found = {self._text(index): value for index, value in self._best(last, k)}
        if actual is not None:
            found[self._text(actual)] = float(self.logprobs[last, actual])
        return found

    def _echo(self, ids, k):
        if self.kind == "openai":
            tokens = [*ids, 65]
            lists = [None, *(self._named(a, k, b) for a, b in pairwise(tokens))]
        else:
            tokens = ids
            lists = [None, *(self._named(token, k, token) for token in tokens[1:])]
        return {"tokens": [self._text(token) for token in tokens], "top_logprobs": lists}

    def _generated(self, last, k):
        best = self._best(last, k)
        if self.kind != "generated":
            return {"tokens": [self._text(best[0][0])], "top_logprobs": [self._named(last, k)]}
        entries = [{"id": index, "token": self._text(index), "logprob": value} for index, value in best]
        return {"content": [{**entries[0], "top_logprobs": entries}]}
