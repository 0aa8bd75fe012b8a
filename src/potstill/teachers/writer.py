"""A Writer: prompts in, teacher text out, as Examples with lineage. A black box can be nothing else.

Answers are kept as they come (see manuscript.py), each with its own seed, so a job that was stopped asks only what is
not there yet. What nobody should learn from is set aside under a reason and counted: no text, a loop, an answer that
was cut off, a prompt that the teacher cannot read. Teacher text is data: it is stored, never rendered, run or parsed,
and names of control tokens in it are refused where rows are encoded (data/boundaries.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from potstill.core.errors import EndpointError
from potstill.core.example import Example, Message
from potstill.core.lineage import Lineage
from potstill.teachers.answers import Answer, Question
from potstill.teachers.client import CONTROL_TOKEN, Refusal
from potstill.teachers.endpoint_settings import PriceSettings, SamplingSettings
from potstill.teachers.manuscript import Manuscript, Place
from potstill.teachers.repetition import ends_in_a_loop

Ask = Callable[[Question], Awaitable[Answer]]

POLL_SECONDS = 0.2
SPEAK_SECONDS = 10.0
# Some servers keep seeds in 32 bits with a sign.
SEED_BITS = 31


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """budget: tokens, prompts included, that are not to be exceeded. rejects_in_a_row: so many answers rejected one
    after the other end the writing. concurrency: questions at a time. price: what tokens cost, to tell of it."""

    concurrency: int
    budget: int | None = None
    rejects_in_a_row: int = 50
    price: PriceSettings | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """How the writing ended: "complete" or "budget"; rows now in the manuscript, tokens spent on them, seconds."""

    ended: str
    answers: int
    rejected: Mapping[str, int]
    tokens: int
    seconds: float


class Writer:
    """Asks every prompt `samples` times and keeps what comes.

    ask: answers one question (an endpoint, a local model). check: raises to stop. say: tells a person how far it is.
    """

    def __init__(
        self,
        ask: Ask,
        sampling: SamplingSettings,
        limits: WriterLimits,
        *,
        seed: int = 0,
        licence: str = "unknown",
        check: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self._ask, self._sampling, self._limits = ask, sampling, limits
        self._seed, self._licence = seed, licence
        self._check, self._say = check, say
        self._in_a_row = 0

    async def write(self, prompts: Sequence[Example], manuscript: Manuscript) -> Written:
        """Ask whatever the manuscript does not hold yet.

        Raises EndpointError when the teacher fails for good, counts no tokens though there is a budget, or is rejected
        too often in a row; DiskError when nothing more can be kept; and what `check` raises. What was kept stands.
        """
        started = spoke = time.monotonic()
        before, total = len(manuscript.written), len(prompts) * self._sampling.samples
        waiting = self._missing(prompts, manuscript)
        asked: set[asyncio.Task[dict[str, Any]]] = set()
        more, ended = True, "complete"
        try:
            while True:
                while more and len(asked) < self._limits.concurrency:
                    if not self._affordable(manuscript.tokens, len(asked)):
                        more, ended = False, "budget"
                    elif (place := next(waiting, None)) is None:
                        more = False
                    else:
                        asked.add(asyncio.create_task(self._row(prompts[place[0]], place)))
                if not asked:
                    break
                done, asked = await asyncio.wait(asked, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                self._keep(done, manuscript)
                self._check()
                if time.monotonic() - spoke > SPEAK_SECONDS:
                    spoke = time.monotonic()
                    self._say(progress(manuscript, before, total, spoke - started, self._limits.price))
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        seconds = time.monotonic() - started
        return Written(ended, len(manuscript.written), dict(manuscript.rejected), manuscript.tokens, seconds)

    def _missing(self, prompts: Sequence[Example], manuscript: Manuscript) -> Iterator[Place]:
        places = ((index, sample) for index in range(len(prompts)) for sample in range(self._sampling.samples))
        return (place for place in places if place not in manuscript.written)

    def _affordable(self, spent: int, asked: int) -> bool:
        """Whether one more answer of full length fits into the budget beside those being written. What a prompt costs
        is known afterwards only."""
        return self._limits.budget is None or spent + (asked + 1) * self._sampling.max_tokens <= self._limits.budget

    def _keep(self, done: set[asyncio.Task[dict[str, Any]]], manuscript: Manuscript) -> None:
        """Keep the rows first: one question that failed must not cost the answers that came beside it."""
        failed = [error for task in done if (error := task.exception()) is not None]
        rows = [task.result() for task in done if task.exception() is None]
        if rows:
            manuscript.append(rows)
        for row in rows:
            self._in_a_row = self._in_a_row + 1 if row["rejected"] else 0
        if failed:
            raise failed[0]
        if self._in_a_row >= self._limits.rejects_in_a_row:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(manuscript.rejected.items()))
            raise EndpointError(
                f"the last {self._in_a_row} answers were all rejected (in all {reasons}): look at them, then at the "
                "prompts and sampling; those that were kept stand"
            )

    async def _row(self, prompt: Example, place: Place) -> dict[str, Any]:
        index, sample = place
        seed = seed_of(self._seed, index, sample)
        turns = turns_of(prompt)
        row = {
            "index": index,
            "sample": sample,
            "seed": seed,
            "prompt_id": prompt.id,
            "reference": reference_of(prompt),
        }
        try:
            answer = await self._ask(Question(asked_turns(turns, self._sampling), seed))
            reason = self._fault(answer)
        except Refusal as error:
            reason = ground_of(error)
            answer = Answer("", "", "", "", None, None)
        example = self._example(prompt, turns, answer)
        return row | {
            "reference": reference_of(prompt),
            "prompt": turns[-1].content,
            "completion": clean(answer.text),
            "messages": [asdict(turn) for turn in example.messages] or None,
            "reasoning": clean(answer.reasoning),
            "finish_reason": clean(answer.finish),
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "model": clean(answer.model),
            "lineage": {name: value for name, value in asdict(example.lineage).items() if name != "parents"},
            "rejected": reason,
        }

    def _fault(self, answer: Answer) -> str | None:
        """Why nobody should learn from this, or None."""
        if self._limits.budget is not None and (answer.prompt_tokens is None or answer.completion_tokens is None):
            raise EndpointError("the endpoint does not count its tokens, so no budget can be kept: remove the budget")
        if not answer.text.strip():
            return "empty answer"
        if "\0" in answer.text or clean(answer.text) != answer.text:
            return "characters that are no text"
        if ends_in_a_loop(answer.text):
            return "repeats itself"
        if answer.finish == "length" and self._sampling.cut_answers == "reject":
            return "cut off at max_tokens"
        return None

    def _example(self, prompt: Example, turns: tuple[Message, ...], answer: Answer) -> Example:
        text = clean(answer.text)
        lineage = Lineage(
            source=prompt.lineage.source,
            revision=prompt.lineage.revision,
            licence=self._licence,
            maker=clean(answer.model) or "nobody",
            generation=prompt.lineage.generation + 1,
            parents=(prompt.id,),
        )
        if self._sampling.route == "chat":
            return Example(lineage=lineage, messages=(*turns, Message("assistant", text)))
        return Example(lineage=lineage, prompt=turns[-1].content, response=text)


def progress(
    manuscript: Manuscript, before: int, total: int, seconds: float, price: PriceSettings | None = None
) -> str:
    """How far and how long yet, from the pace of this session, and what it has cost."""
    done, rejected = len(manuscript.written), sum(manuscript.rejected.values())
    new = done - before
    left = f"{seconds / new * (total - done):,.0f} s left" if new else "no answer yet"
    pace = f"{60 * new / seconds:,.1f} answers a minute" if seconds > 0 else ""
    paid = "" if price is None else f" (cost {cost(manuscript, price):,.4g})"
    return f"  {done:,} of {total:,} answers, {rejected:,} rejected, {manuscript.tokens:,} tokens{paid}, {pace}, {left}"


def cost(manuscript: Manuscript, price: PriceSettings) -> float:
    """What the tokens of a manuscript cost, by their own prices."""
    return (manuscript.prompt_tokens * price.prompt + manuscript.completion_tokens * price.completion) / 1e6


def seed_of(seed: int, index: int, sample: int) -> int:
    """The seed of one answer: a function of the job's seed and the place, so a question asked again has the same."""
    digest = hashlib.sha256(f"{seed}|{index}|{sample}".encode()).digest()
    return int.from_bytes(digest[:4]) >> (32 - SEED_BITS)


def turns_of(prompt: Example) -> tuple[Message, ...]:
    """What is to be answered: the turns up to the last one of the user, or the prompt, or the plain text."""
    if prompt.messages:
        last = max((at for at, turn in enumerate(prompt.messages) if turn.role == "user"), default=-1)
        return prompt.messages[: last + 1] or prompt.messages
    return (Message("user", prompt.prompt or prompt.response),)


def reference_of(prompt: Example) -> str | None:
    """The answer that the source itself has, to be compared with later; never shown to the teacher."""
    if prompt.messages:
        after = prompt.messages[len(turns_of(prompt)) :]
        return after[0].content if after else None
    return prompt.response if prompt.prompt else None


def asked_turns(turns: Sequence[Message], sampling: SamplingSettings) -> tuple[Message, ...]:
    """The turns with the template around the last one, and before them the system message and the worked examples."""

    def framed(prompt: str) -> str:
        return sampling.template.replace("{prompt}", prompt)

    asked = framed(turns[-1].content)
    if sampling.route == "completion":
        # A template ends where the answer begins ("Answer:"), so an example's answer follows after a space.
        shots = "".join(f"{framed(shot.prompt)} {shot.completion}\n\n" for shot in sampling.shots)
        return (*turns[:-1], Message(turns[-1].role, shots + asked))
    system = () if sampling.system is None else (Message("system", sampling.system),)
    shown = ((Message("user", framed(shot.prompt)), Message("assistant", shot.completion)) for shot in sampling.shots)
    return (*system, *chain.from_iterable(shown), *turns[:-1], Message(turns[-1].role, asked))


def ground_of(refusal: Refusal) -> str:
    """Why the endpoint does not take one prompt, by the codes and words that servers use.

    Raises EndpointError for any other ground: it may lie in the settings, and then every prompt would be lost to it.
    """
    said = f"{refusal.code} {refusal.message}".lower()
    if "context" in said and any(word in said for word in ("length", "exceed", "window", "size")):
        return "prompt longer than the context"
    if "content" in said and any(word in said for word in ("filter", "policy")):
        return "refused by the endpoint's content policy"
    if refusal.code == CONTROL_TOKEN:
        return "control token in the prompt"
    raise EndpointError(
        f"the endpoint refuses a question ({refusal}): look at the sampling and at model; answers that were kept stand"
    ) from None


def clean(text: str) -> str:
    """The text with half of a surrogate pair, which no file can hold, spelt out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
