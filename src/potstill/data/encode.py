"""From Examples to tokens, and which of them are learnt. What does not fit is refused or shortened, and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import BatchEncoding, PreTrainedTokenizerBase

from potstill.core.errors import DataError
from potstill.core.example import Example
from potstill.core.task import Task
from potstill.data.boundaries import control_pattern, refuse_control_tokens, split_tokens
from potstill.data.chat import conversation_tokens
from potstill.data.columns import Placed
from potstill.data.encoded import Encoded, encoded_row
from potstill.data.quarantine import BadRow, Quarantine
from potstill.data.settings import DataSettings

CHUNK = 512
LONG = "longer than max_length"
ESCAPED = "control token read as plain text"


class Encoder:
    """A tokenizer with the recipe's rules for length and content.

    context: the most tokens the model reads, where the caller knows it.

    Raises:
        DataError: max_length is beyond the model's context, or the tokenizer lacks what the task needs.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, settings: DataSettings, task: Task, context: int | None = None
    ):
        self.tokenizer = tokenizer
        self.settings = settings
        self.task = task
        self._control = control_pattern(tokenizer)
        self._check(min(tokenizer.model_max_length, context or tokenizer.model_max_length))
        framed = tokenizer("")["input_ids"]
        self._frame = len(framed)
        self._start = framed[:1] if framed and framed[0] == tokenizer.bos_token_id else []

    def _check(self, context: int) -> None:
        if self.settings.max_length > context:
            raise DataError(
                f"data.max_length is {self.settings.max_length} and the model reads at most {context} tokens; lower it"
            )
        if self.settings.pack and self.task != "causal-lm":
            raise DataError(f"data.pack joins documents for causal-lm and the task is {self.task}; remove it")
        if self.task == "causal-lm" and self.tokenizer.eos_token_id is None:
            raise DataError("the tokenizer has no end-of-sequence token, which causal-lm needs; set its eos_token")
        if self.task == "masked-lm" and self.tokenizer.mask_token_id is None:
            raise DataError("the tokenizer has no mask token, which masked-lm needs; use an encoder's tokenizer")

    def encode(self, placed: Sequence[Placed], quarantine: Quarantine) -> tuple[list[Example], list[Encoded]]:
        """The Examples that fit and their tokens; `encoded[i]` has row i and belongs to `examples[i]`.

        Raises:
            DataError: a chat template that cannot be used, or a bad row under policy "stop"; names file and line.
        """
        examples: list[Example] = []
        encoded: list[Encoded] = []
        for start in range(0, len(placed), CHUNK):
            chunk = placed[start : start + CHUNK]
            for one, whole in zip(chunk, self._whole(chunk, quarantine), strict=True):
                try:
                    fitted = self._fitted(one, whole, quarantine)
                except BadRow as fault:
                    quarantine.reject(one.file, one.line, fault, _raw(one.example))
                    continue
                if fitted is not None:
                    examples.append(one.example)
                    encoded.append(replace(fitted, row=len(encoded), slices=one.example.slices))
        return examples, encoded

    def _whole(self, chunk: Sequence[Placed], quarantine: Quarantine) -> list[Encoded | BadRow]:
        """Rows at their full length; the tokenizer is fastest on many texts at once."""
        if self.task == "causal-lm":
            texts = [one.example.response if _is_text(one.example) else "" for one in chunk]
            return [self._causal(one, ids) for one, ids in zip(chunk, self._plain(texts), strict=True)]
        texts = [_read(one.example) for one in chunk]
        pairs = [one.example.pair or "" for one in chunk] if any(one.example.pair for one in chunk) else None
        joined = zip(texts, pairs or texts, strict=True)
        quarantine.count(ESCAPED, sum(any(map(self._control.search, both)) for both in joined))
        found = self._frames(texts, pairs)
        rows = [self._framed(one.example, found, index) for index, one in enumerate(chunk)]
        too_long = [index for index, row in enumerate(rows) if self._is_long(row)]
        if too_long and self.settings.on_long_row == "truncate":
            quarantine.count(f"{LONG}, truncated", len(too_long))
            shorter = [texts[index] for index in too_long], [pairs[index] for index in too_long] if pairs else None
            found = self._frames(*shorter, cut=True)
            for at, index in enumerate(too_long):
                rows[index] = self._framed(chunk[index].example, found, at)
        return rows

    def _plain(self, texts: list[str]) -> list[list[int]]:
        found = self.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return list(found["input_ids"])

    def _frames(self, texts: list[str], pairs: list[str] | None, cut: bool = False) -> BatchEncoding:
        """Model inputs of texts or text pairs. The names of control tokens inside content stay plain text."""
        return self.tokenizer(
            texts,
            pairs,
            truncation=cut,
            max_length=self.settings.max_length if cut else None,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )

    def _framed(self, example: Example, found: BatchEncoding, index: int) -> Encoded | BadRow:
        tokens = found["input_ids"][index]
        if len(tokens) <= self._frame:
            return BadRow("empty text", "the tokenizer leaves nothing of it")
        types = found["token_type_ids"][index] if "token_type_ids" in found else None
        return encoded_row((example.id,), tokens, token_types=types, label=example.label)

    def _causal(self, one: Placed, plain: list[int]) -> Encoded | BadRow:
        example, end = one.example, [self.tokenizer.eos_token_id]
        try:
            if example.messages:
                tokens, learnt = self._conversation(one)
                return encoded_row((example.id,), tokens, learnt)
            refuse_control_tokens(self._control, (example.prompt, example.response))
            if _is_text(example):
                return encoded_row((example.id,), [*self._start, *plain, *end])
            prompt, answer = split_tokens(self.tokenizer, (example.prompt, example.response))
        except BadRow as fault:
            return fault
        given = [*self._start, *prompt]
        return encoded_row((example.id,), [*given, *answer, *end], [False] * len(given) + [True] * (len(answer) + 1))

    def _conversation(self, one: Placed) -> tuple[list[int], list[bool]]:
        try:
            return conversation_tokens(self.tokenizer, one.example.messages, self._control)
        except DataError as error:
            raise DataError(f"{one.file}:{one.line}: {error}") from error

    def _fitted(self, one: Placed, whole: Encoded | BadRow, quarantine: Quarantine) -> Encoded | None:
        """The row within max_length; None if it is dropped for its length."""
        if isinstance(whole, BadRow):
            raise whole
        limit, policy = self.settings.max_length, self.settings.on_long_row
        if self.settings.pack and not _is_text(one.example):
            raise DataError(f"{one.file}:{one.line}: data.pack joins plain text only; remove it, or use rows: text")
        if not self._is_long(whole):
            return self._learnable(whole)
        if policy == "stop":
            raise DataError(
                f"{one.file}:{one.line}: {LONG}: {whole.length} tokens, {limit} allowed; raise data.max_length, or set "
                f"data.on_long_row: truncate or drop"
            )
        quarantine.count(f"{LONG}, {policy}{'d' if policy == 'truncate' else 'ped'}")
        if policy == "drop":
            return None
        return self._learnable(replace(whole, tokens=whole.tokens[:limit], learnt=whole.learnt[:limit]))

    def _is_long(self, row: Encoded | BadRow) -> bool:
        return isinstance(row, Encoded) and not self.settings.pack and row.length > self.settings.max_length

    def _learnable(self, row: Encoded) -> Encoded:
        """A row without anything to predict would divide nothing by nothing later."""
        if self.task == "causal-lm" and not row.learnt[1:].any():
            raise BadRow("nothing to learn", f"within {row.length} tokens no token of the answer is left to predict")
        return row


def _is_text(example: Example) -> bool:
    return not example.prompt and not example.messages


def _read(example: Example) -> str:
    return example.prompt or example.response


def _raw(example: Example) -> str:
    return _read(example) or " ".join(message.content for message in example.messages)
