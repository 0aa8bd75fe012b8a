"""A black box as a teacher: the likeliest tokens and their log-probabilities, and the mass of all others.

It sees what the student reads and says what an endpoint tells of it: k entries at temperature 1, never whole logits,
states or attentions. What the endpoint would say of a token beyond those is not known, and goes to the tail as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import torch
from pydantic import SecretStr
from transformers import PreTrainedTokenizerBase

from potstill.core.batch import Batch
from potstill.core.errors import EndpointError, SignalError
from potstill.core.signal import Signal, SparseLogprobs, Voice, Want
from potstill.teachers.agreement import agreed_way
from potstill.teachers.client import Client, Refusal
from potstill.teachers.endpoint_settings import TopKSettings
from potstill.teachers.entries import TopEntries
from potstill.teachers.speaker import OneModel, model_to_ask
from potstill.teachers.token_texts import TokenTexts
from potstill.teachers.ways import Line, Way, WayName

POLL_SECONDS = 0.2
Said = TypeVar("Said")


class EndpointTeacher:
    """Asks an endpoint about every batch, `concurrency` rows at a time.

    Made by `connect`. way_name: how it is asked. Requests run on a loop of its own, so `signal` is an ordinary call.
    """

    def __init__(
        self,
        way_name: WayName,
        way: Way,
        line: Line,
        voice: Voice,
        runner: asyncio.Runner,
        check: Callable[[], None],
    ):
        self.way_name = way_name
        self.client = line.client
        self._way, self._line, self._voice = way, line, voice
        self._runner, self._check = runner, check

    @classmethod
    def connect(
        cls,
        settings: TopKSettings,
        tokenizer: PreTrainedTokenizerBase,
        *,
        vocabulary_size: int,
        top_k: int,
        key: SecretStr | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> EndpointTeacher:
        """Find out how the endpoint can be asked, and that it reads as the student does.

        vocabulary_size: entries of the student's logits. check: raises to stop. Raises SignalError when the tokenizers
        differ, EndpointError when it is away or offers no log-probabilities that could be trusted.
        """
        runner = asyncio.Runner()

        async def prepare() -> tuple[WayName, Way, Line]:
            client = Client(settings, key)
            model, one = await model_to_ask(client), OneModel()
            spare = 0 if settings.way == "prompt_logprobs" else settings.spare
            line = Line(client, model, one, TokenTexts(tokenizer), top_k, top_k + spare)
            name, way = await agreed_way(line, settings.way)
            return name, way, line

        try:
            name, way, line = runner.run(_watched(prepare(), check))
        except BaseException:
            runner.close()
            raise
        voice = Voice(teacher=f"{line.one.reported} at {settings.url}", vocabulary_size=vocabulary_size)
        return cls(name, way, line, voice, runner, check)

    @property
    def voice(self) -> Voice:
        """The model's id as the endpoint reports it, and where: nobody outside can hash its weights."""
        return self._voice

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Top entries at the positions with a weight in "soft"; elsewhere all mass is in the tail, which nobody reads.

        Raises SignalError for a want that an endpoint cannot meet, EndpointError when it fails for good.
        """
        if want.top_k != self._line.k or want.temperature != 1 or want.headed or want.inside:
            raise SignalError(
                f"an endpoint gives its {self._line.k} likeliest tokens at temperature 1, and the objective wants "
                f"{want}: set objective.top_k to {self._line.k} and temperature to 1, and learn from logits alone"
            )
        rows = self._runner.run(_watched(self._rows(batch), self._check))
        return Signal(voice=self._voice, logits=sparse_of(rows, batch, self._line.k))

    async def _rows(self, batch: Batch) -> list[dict[int, TopEntries]]:
        places = asyncio.Semaphore(self.client.settings.concurrency)

        async def one(row: int) -> dict[int, TopEntries]:
            ids = batch.tokens_BL[row][batch.attention_BL[row]].tolist()
            positions = batch.weights["soft"][row].nonzero().flatten().tolist()
            if not positions:
                return {}
            async with places:
                try:
                    return await self._way.row(ids, positions)
                except Refusal as error:
                    raise EndpointError(
                        f"the endpoint refuses row {batch.ids[row]} of {len(ids)} tokens ({error}): look at its "
                        "context and at its limit for log-probabilities"
                    ) from None

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(row)) for row in range(len(batch.ids))]
        return [task.result() for task in tasks]

    def close(self) -> None:
        """End the loop and its connections."""
        self._runner.close()


def sparse_of(rows: Sequence[dict[int, TopEntries]], batch: Batch, k: int) -> SparseLogprobs:
    """Tensors [B, T, K] of what was told. A position of which nothing was asked has all of its mass in the tail."""
    shape = tuple(batch.targets_BT.shape)
    indices = torch.arange(k).repeat(*shape, 1)
    logprobs = torch.full((*shape, k), -torch.inf)
    tail = torch.zeros(shape)
    for row, told in enumerate(rows):
        for at, top in told.items():
            indices[row, at] = torch.tensor(top.ids)
            logprobs[row, at] = torch.tensor(top.logprobs)
            tail[row, at] = top.log_tail
    device = batch.tokens_BL.device
    return SparseLogprobs(indices.to(device), logprobs.to(device), tail.to(device))


async def _watched(work: Coroutine[Any, Any, Said], check: Callable[[], None]) -> Said:
    """The work's result; `check` is asked while it runs, and an error in it ends the work. The first error of several
    rows is raised alone, because a run ends with one message."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_SECONDS)
            check()
        return task.result()
    except BaseExceptionGroup as group:
        raise first_of(group) from None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group that is none itself."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first
