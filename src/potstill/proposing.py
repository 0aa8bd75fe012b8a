"""Words that would fit in place of a word: from a masked language model, or from its fixed vectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from potstill.data.augment.pieces import Pieced, pieced, whole_words
from potstill.data.augment.settings import AugmentSettings
from potstill.data.augment.static import mean_rows, nearest
from potstill.data.augment.words import common_words
from potstill.students.layouts import body_of
from potstill.students.load import LoadedModel
from potstill.students.pooled import config_of, positions_of
from potstill.train.precision import has_native_bf16

# Words that a word of several pieces may become: the most frequent ones of the data, within a few hundred megabytes.
STATIC_WORDS = 20_000
BATCH, LONGEST = 32, 512


class Proposer:
    """What may stand in place of each word: for a word of one piece, the likeliest whole words where it is hidden; for
    others, the words of the data whose vectors (the mean of their pieces' rows in the model's own table) are nearest.

    Never the word itself, so that p_replace is the rate at which words change. Counts what it has done.
    """

    def __init__(self, loaded: LoadedModel, settings: AugmentSettings, longest: int, texts: Sequence[str]):
        self.loaded, self.settings = loaded, settings
        self.hidden = self.static = self.tokens = 0
        reads = positions_of(config_of(loaded.module)) or LONGEST
        # A text cut here is cut where the student's own rows are, or later: pieces of other tokenizers are other ones.
        self._longest = min(reads, LONGEST, 2 * longest)
        self._whole = whole_words(loaded.tokenizer)
        self._barred_V = torch.ones(loaded.record.vocabulary_size, dtype=torch.bool)
        self._barred_V[list(self._whole)] = False
        self._near = self._neighbours(texts)
        self._bf16 = has_native_bf16() if settings.bf16 == "auto" else settings.bf16

    def propose(self, texts: Sequence[str]) -> list[list[tuple[str, ...]]]:
        """For each text, for each of its words (`words_of`), the proposals; () where there are none."""
        read = pieced(self.loaded.tokenizer, texts, self._longest)
        found: list[list[tuple[str, ...]]] = [[()] * len(one.words) for one in read]
        hidden: list[tuple[int, int]] = []  # the text, and which of its words
        turns: list[tuple[int, list[int]]] = []
        for row, one in enumerate(read):
            alone = []
            for index, (word, place) in enumerate(zip(one.words, one.places, strict=True)):
                if len(place) == 1 and one.tokens[place[0]] in self._whole:
                    alone.append(index)
                elif place:
                    found[row][index] = self._near.get(word.text.lower(), ())
                    self.static += 1
            hidden += [(row, index) for index in alone]
            step = self.settings.passes or len(alone)
            turns += [(row, alone[turn::step]) for turn in range(min(step, len(alone)))]
        self.hidden += len(hidden)
        turns.sort(key=lambda turn: -len(read[turn[0]].tokens))
        for start in range(0, len(turns), BATCH):
            some = turns[start : start + BATCH]
            for (row, index), words in self._asked([(read[row], row, indices) for row, indices in some]):
                found[row][index] = words
        return found

    @torch.inference_mode()
    def _asked(
        self, some: Sequence[tuple[Pieced, int, Sequence[int]]]
    ) -> Iterator[tuple[tuple[int, int], tuple[str, ...]]]:
        """The likeliest words at the hidden places of a batch; each entry is a text, its number, and which words."""
        tokenizer, module = self.loaded.tokenizer, self.loaded.module
        length = max(len(one.tokens) for one, _, _ in some)
        tokens_BL = torch.full((len(some), length), tokenizer.pad_token_id or 0)
        mask_BL, asked_BL = torch.zeros(len(some), length, dtype=torch.bool), torch.zeros(len(some), length).bool()
        whose: list[tuple[int, int]] = []
        own: list[int] = []
        for at, (one, row, indices) in enumerate(some):
            tokens_BL[at, : len(one.tokens)] = torch.tensor(one.tokens)
            mask_BL[at, : len(one.tokens)] = True
            for index in indices:
                place = one.places[index][0]
                own.append(one.tokens[place])
                whose.append((row, index))
                asked_BL[at, place] = True
        tokens_BL[asked_BL] = int(tokenizer.mask_token_id)
        self.tokens += int(mask_BL.sum())
        with _only_at(module, asked_BL), torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits_NV = module(input_ids=tokens_BL, attention_mask=mask_BL).logits.float()
        barred_NV = self._barred_V.expand(len(own), -1).clone()
        barred_NV[torch.arange(len(own)), torch.tensor(own)] = True
        count = min(self.settings.candidates, max(1, len(self._whole) - 1))
        best_NK = logits_NV.masked_fill(barred_NV, -torch.inf).topk(count).indices.tolist()
        for place, ids in zip(whose, best_NK, strict=True):
            yield place, tuple(self._whole[index] for index in ids)

    def _neighbours(self, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Words of several pieces -> the nearest words of the data."""
        tokenizer = self.loaded.tokenizer
        known = common_words(texts, STATIC_WORDS)
        if not known:
            return {}
        pieces = tokenizer(known, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        table_VD = self.loaded.module.get_input_embeddings().weight.detach().float().numpy()
        vectors_ND = mean_rows(table_VD, pieces)
        several = [at for at, ids in enumerate(pieces) if len(ids) > 1 or ids[0] not in self._whole]
        near_QK = nearest(vectors_ND[several], vectors_ND, self.settings.candidates + 1)
        return {
            known[at]: tuple(known[other] for other in row if other != at)[: self.settings.candidates]
            for at, row in zip(several, near_QK.tolist(), strict=True)
        }


@contextmanager
def _only_at(module: nn.Module, asked_BL: Tensor) -> Iterator[None]:
    """While it lasts, the head sees the states of these places alone: the vocabulary's logits of all would cost as much
    as the body."""

    def narrowed(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[asked_BL]
        return output

    handle = body_of(module).register_forward_hook(narrowed)
    try:
        yield
    finally:
        handle.remove()
