"""A model in this process that writes: questions that wait together are decoded as one batch, with a key-value cache.

Every row has the random numbers of its own seed. What it draws with them depends, in the last bits, on how far its
batch is padded, so a job that was stopped asks the same questions again but need not read the same words.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from potstill.core.errors import ModelError, NumbersError
from potstill.core.example import Message
from potstill.data.boundaries import control_pattern, token_ids
from potstill.data.chat import chat_template
from potstill.students.load import LoadedModel
from potstill.students.sample import Sampling, continued, ends_of
from potstill.teachers.answers import Answer, Question, plain
from potstill.teachers.client import CONTROL_TOKEN, Refusal
from potstill.teachers.endpoint_settings import SamplingSettings

Waiting = tuple[list[int], int, asyncio.Future[list[int]]]


@dataclass(slots=True)
class OwnAnswers:
    """Asks a model that is loaded here. context: tokens it reads, answer included; batch: questions at a time. poll:
    called before each token; raises to stop."""

    made: LoadedModel
    name: str
    sampling: SamplingSettings
    context: int
    batch: int
    poll: Callable[[], None] = lambda: None
    _waiting: list[Waiting] = field(default_factory=list)
    _decoding: asyncio.Task[None] | None = None
    _control: re.Pattern[str] | None = None

    async def answer(self, question: Question) -> Answer:
        """Raises client.Refusal for a prompt beyond the context or with control tokens, ModelError for a model whose
        numbers are not finite."""
        prompt = self._prompt(question.turns)
        if len(prompt) + self.sampling.max_tokens > self.context:
            told = f"{len(prompt)} tokens and {self.sampling.max_tokens} to write exceed the context of {self.context}"
            raise Refusal(400, "context_length_exceeded", told)
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, question.seed, future))
        if self._decoding is None:
            self._decoding = asyncio.create_task(self._decode())
        new = await future
        ended = new[-1] in self._ends
        text = self.made.tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        cut, stopped = cut_at(text, self.sampling.stop)
        finish = "stop" if ended or stopped else "length"
        return Answer(cut, "", finish, self.name, len(prompt), len(new))

    @property
    def _ends(self) -> frozenset[int]:
        return ends_of(self.made.module, self.made.tokenizer)

    def _prompt(self, turns: Sequence[Message]) -> list[int]:
        """Tokens of the question as the model was taught to read one."""
        tokenizer = self.made.tokenizer
        self._control = self._control or control_pattern(tokenizer)
        if any(self._control.search(turn.content) for turn in turns):
            raise Refusal(400, CONTROL_TOKEN, "the prompt holds a control token of the model's tokenizer")
        if self.sampling.route == "completion":
            return [*beginning(tokenizer), *token_ids(tokenizer, plain(turns))]
        chat_template(tokenizer)
        said = [{"role": turn.role, "content": turn.content} for turn in turns]
        return token_ids(
            tokenizer, str(tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        )

    async def _decode(self) -> None:
        """Batches until nobody waits. Whoever is ready to ask by now has asked: tasks begin in the order they were
        made, and this one was made by the first of them."""
        try:
            while self._waiting:
                some, self._waiting = self._waiting[: self.batch], self._waiting[self.batch :]
                prompts, seeds, futures = (list(part) for part in zip(*some, strict=True))
                try:
                    written = await asyncio.to_thread(self._written, prompts, seeds)
                except Exception as error:
                    _all(futures, lambda future, error=error: future.set_exception(error))
                    continue
                for future, new in zip(futures, written, strict=True):
                    _all([future], lambda future, new=new: future.set_result(new))
        finally:
            self._decoding = None

    def _written(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        settings = self.sampling
        sampling = Sampling(
            temperature=settings.temperature,
            max_new_tokens=settings.max_tokens,
            entries=len(self.made.tokenizer),
            ends=tuple(sorted(self._ends)),
            top_p=settings.top_p,
        )
        try:
            return continued(self.made.module, prompts, sampling, seed=seeds, poll=self.poll)
        except NumbersError as error:
            raise ModelError(f"{self.name}: its logits are not finite while it writes: take another model") from error


def _all(futures: Sequence[asyncio.Future[list[int]]], tell: Callable[[asyncio.Future[list[int]]], None]) -> None:
    for future in futures:
        if not future.done():
            tell(future)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The begin-of-sequence token, where this tokenizer puts one before a text."""
    framed = list(tokenizer("")["input_ids"])
    return framed[:1] if framed and framed[0] == tokenizer.bos_token_id else []


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of the stops, and whether there was one."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)
