"""A teacher that is elsewhere: one or several services that speak with the same voice.

Questions about coming batches are sent ahead, as many as are allowed, so that the teacher works while the student does.
An answer is used when it is provably the answer to this question by this teacher, or not at all: everything else is
counted, asked again elsewhere, and after so many ends the run. Nobody there is no error but a pause (`TeacherAway`).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late
from pathlib import Path
from typing import Any

from potstill.core.batch import Batch
from potstill.core.errors import SignalError, TeacherError
from potstill.core.signal import Signal, Voice, Want
from potstill.core.task import Task
from potstill.teachers.asking import LOOK_S, Asking, Terms
from potstill.teachers.channel import Address
from potstill.teachers.codec import unpack
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.head import HeadShelf, KeptHead, pack_head
from potstill.teachers.identity import Identity
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.question import ask
from potstill.teachers.stored import as_wanted
from potstill.teachers.wire import Frame


def form_for(want: Want, *, headed: bool) -> Form:
    """The smallest form that serves: last states at half precision are nearer to the truth than whole logits at half
    precision, at a small part of their bytes (docs/results/wire.md). headed: the teacher has a head to send."""
    if not want.logits and not want.headed:
        return "layers-fp32"
    if want.top_k is not None:
        return "top-k"
    return "hidden-bf16" if headed else "logits"


Key = tuple[tuple[int, ...], tuple[str, ...]]


class RemoteTeacher:
    """A `Teacher` over a pool. poll: called while an answer is waited for; may raise to stop."""

    def __init__(
        self,
        addresses: Sequence[Address],
        terms: Terms,
        *,
        task: Task,
        heads: Path,
        weights: Sequence[float] | None = None,
        poll: Callable[[], None] = lambda: None,
    ):
        """Asks every address who is there. heads: the folder in which the head is kept.

        Raises TeacherError when none answers, one denies, or two speak with different voices.
        """
        self._asking = Asking(addresses, terms, task=task, weights=weights, poll=poll)
        self._poll = poll
        self._sent: OrderedDict[Key, tuple[Want, Future[Any]]] = OrderedDict()
        self._slots = threading.Semaphore(max(terms.prefetch, 1))
        self._shelf, self._head = HeadShelf(heads), None
        self.facts, self.identity = self._asking.facts, self._asking.identity

    @property
    def voice(self) -> Voice:
        """The voice all of them speak with."""
        return self.identity.voice

    @property
    def counts(self) -> dict[str, int]:
        """Questions that were answered, unanswered, and whose answers were refused."""
        return {name: self._asking.pool.count(name) for name in ("answered", "unanswered", "refused")}

    def expect(self, batch: Batch, want: Want) -> None:
        """Ask about a batch whose signal will be wanted soon."""
        packing = self.packing(want)
        frame = ask(batch, packing)
        self._sent[_key(batch)] = (want, self._begun(frame, lambda reply: self._read(reply, batch, packing)))

    def forget(self, batch: Batch | None = None) -> None:
        """What was asked ahead about this batch, or at all, is not wanted any more."""
        for key in list(self._sent) if batch is None else [_key(batch)]:
            if (sent := self._sent.pop(key, None)) is not None:
                sent[1].cancel()

    def signal(self, batch: Batch, want: Want) -> Signal:
        """The answer about a batch, asked for now unless it was before.

        Raises TeacherAway when no teacher is there, TeacherError when one answers wrongly too often or is another.
        """
        known = self._sent.get(key := _key(batch))
        if known is None or known[0] != want:
            self.expect(batch, want)
        return as_wanted(self._waited(self._sent.pop(key)[1]), batch, want)

    def close(self) -> None:
        """Ask no more, and hang up."""
        self.forget()
        self._asking.close()

    def packing(self, want: Want) -> Packing:
        """The terms on which this want is answered. Raises TeacherError for a form that is not offered."""
        if want.score_layers:
            raise SignalError(
                "a teacher elsewhere sends no attention scores: load it here (teacher.models), or set "
                "objective.layers.attention to 0"
            )
        form = self._asking.terms.form or form_for(want, headed=self.facts.get("head") is not None)
        if form not in self.facts["forms"]:
            offered = ", ".join(self.facts["forms"])
            raise TeacherError(
                f"the teacher does not send the form {form}; it sends: {offered}. Set teacher.form or store.form"
            )
        headed = FORMS[form].says == "hidden"
        top_k = FORMS[form].says == "top-k"
        if top_k and want.top_k is None:
            raise SignalError("form top-k needs objective.top_k: set it, or take another teacher.form")
        head = self.head() if headed else None
        sparse = want.top_k if top_k else None
        temperature = want.temperature if top_k else 1.0
        return Packing(form, self.identity, head, sparse, temperature, want.hidden_layers, want.attention_layers)

    def head(self) -> KeptHead:
        """The teacher's head: from the folder, or fetched once. Raises TeacherAway, TeacherError, SignalError."""
        if self._head is None:
            self._head = self._shelf.get(str(self.facts.get("head")), identity=self.identity, fetch=self._fetch)
        return self._head

    def head_frame(self) -> Frame:
        """The frame of the head, for a store that keeps one beside its signals."""
        found = self.head()
        return pack_head(found.head, self.identity, found.channels_D)

    def _fetch(self, sha256: str) -> Frame:
        """A copy: the head stays, and what came over a stream lies where the next answer will."""

        def copied(frame: Frame) -> Frame:
            return Frame(frame.kind, frame.meta, {name: tensor.clone() for name, tensor in frame.tensors.items()})

        return self._waited(self._begun(Frame("fetch-head", {"sha256": sha256}), copied))

    def _begun(self, frame: Frame, used: Callable[[Frame], Any]) -> Future[Any]:
        """Ask in a thread of its own, as soon as one of the places is free."""
        future: Future[Any] = Future()
        threading.Thread(target=self._work, args=(frame, used, future), daemon=True, name="ask").start()
        return future

    def _waited(self, future: Future[Any]) -> Any:
        while True:
            self._poll()
            try:
                return future.result(timeout=LOOK_S)
            except Late:
                if future.done():
                    raise

    def _work(self, frame: Frame, used: Callable[[Frame], Any], future: Future[Any]) -> None:
        with self._slots:
            if future.cancelled():
                return
            try:
                found = self._asking.ask(frame, used, future.cancelled)
            except BaseException as error:  # whoever waits for the future must hear of it, whatever it is
                _settle(future, error=error)
            else:
                _settle(future, result=found)

    def _read(self, reply: Frame, batch: Batch, packing: Packing) -> Signal:
        if reply.kind == "signal":
            self._asking.refuse_another(Identity.from_meta(reply.meta.get("teacher")), "the answer")
        return unpack(reply, batch, packing)


def _key(batch: Batch) -> Key:
    """The rows and how they lie in the batch, whichever object holds them."""
    return tuple(batch.tokens_BL.shape), row_keys(batch)


def _settle(future: Future[Any], *, result: Any = None, error: BaseException | None = None) -> None:
    if future.set_running_or_notify_cancel():
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
