"""A teacher of this process behind its store: what it said once is read, what it did not say yet is asked and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.signal import HeadedStates, Want
from potstill.data.collate import Collate
from potstill.data.encoded import Encoded
from potstill.students.load import LoadedModel
from potstill.teachers.forms import FORMS
from potstill.teachers.head import HeadShelf, KeptHead, pack_head
from potstill.teachers.identity import Identity
from potstill.teachers.int8 import channel_scales
from potstill.teachers.local import LocalTeacher
from potstill.teachers.manifest import MANIFEST, read_manifest
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.speaking import SpeakingTeacher, identity_of, own_head, refuse_false_head
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from potstill.teachers.wire import Frame

# With half of these rows of 256 tokens the median channel scale is 2 % off (docs/results/wire.md).
CALIBRATION_ROWS = 32


def replayed(
    bench: Bench,
    stage: StageSettings,
    live: LocalTeacher,
    loaded: LoadedModel,
    rows: Sequence[Encoded],
    collate: Collate,
    place: Path,
    *,
    bf16: bool = False,
) -> StoredTeacher:
    """The teacher as the stage's objective hears it: every signal comes out of the store, in the first pass too.

    A shard that is damaged is named and its rows are asked for again. Where the store has every row the model is not
    needed any more and its memory is free. Raises SignalError for a head that is not linear, and what the store raises.
    """
    settings = stage.teacher.store if stage.teacher else None
    assert settings is not None, "a stage with a store has its settings"
    identity = identity_of(loaded)
    speaker = SpeakingTeacher(live, own_head(loaded.module), bf16=bf16)
    says = FORMS[settings.form].says
    terms = {"form": settings.form, "teacher": identity.as_meta(), "bf16": bf16}
    if says == "top-k":
        terms |= {"top_k": stage.objective.top_k, "temperature": stage.objective.temperature}
    named = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:8]
    folder = (Path(settings.path) if settings.path else place / "signals") / f"{identity.voice.teacher}-{named}"
    head = None
    if says == "hidden":
        # Only the leader writes; the others find what it kept.
        kept = bench.ranks.lead(lambda: _head(folder, identity, speaker, rows, collate).sha256)
        head = HeadShelf(folder).get(kept, identity=identity)
    packing = Packing(
        settings.form,
        identity,
        head=head,
        top_k=stage.objective.top_k if says == "top-k" else None,
        temperature=stage.objective.temperature if says == "top-k" else 1.0,
    )
    for damage in bench.ranks.lead(lambda: _damages(folder, packing)):
        bench.say(damage)
    store = SignalStore(folder, packing.as_meta())
    missing = bench.ranks.lead(
        lambda: [row for row, one in enumerate(rows) if row_keys(collate([one], 0))[0] not in store]
    )
    name = identity.voice.teacher
    bench.say(
        f"what teacher {name} says is kept in {folder} ({store.rows:,} rows so far)"
        if missing
        else f"{folder} holds what teacher {name} says of all {len(rows):,} rows: it is not asked again"
    )
    if missing and bench.ranks.size > 1:
        _record(bench, StoredTeacher(store, packing, speaker), [rows[row] for row in missing], collate)
        store, missing = SignalStore(folder, packing.as_meta()), []
    found = StoredTeacher(store, packing, speaker if missing else None)
    bench.closing.callback(found.close)
    return found


def _damages(folder: Path, packing: Packing) -> list[str]:
    store = SignalStore(folder, packing.as_meta())
    found = store.verify()
    store.close()
    return found


def _record(bench: Bench, teacher: StoredTeacher, rows: Sequence[Encoded], collate: Collate) -> None:
    """Ask about rows before the training: one store has one writer, and every rank is to read it. In small steps, as
    the other ranks wait for each of them."""
    size, leads = bench.recipe.train.per_device_eval_batch_size, bench.ranks.leads
    for start in range(0, len(rows), size):
        bench.stop.check()
        batch = collate(rows[start : start + size], 0) if leads else None
        bench.ranks.lead(lambda batch=batch: _recorded(teacher, batch))
    bench.ranks.lead(teacher.close)


def _recorded(teacher: StoredTeacher, batch: Batch | None) -> None:
    assert batch is not None, "the leader has the rows"
    teacher.signal(batch, teacher.packing.want)


def _head(
    folder: Path, identity: Identity, speaker: SpeakingTeacher, rows: Sequence[Encoded], collate: Collate
) -> KeptHead:
    """The head the store was begun with, else the teacher's, with channel scales from the first rows."""
    shelf = HeadShelf(folder)

    def calibrated() -> Frame:
        refuse_false_head(speaker, collate(rows[:1], 0))
        said = []
        for row in rows[:CALIBRATION_ROWS]:
            batch = collate([row], 0)
            states = speaker.signal(batch, Want(logits=False, headed=True)).logits
            assert isinstance(states, HeadedStates), "asked for above"
            said.append(states.states_BTD[batch.weights["soft"] != 0])
        return pack_head(speaker.head, identity, channel_scales(torch.cat(said)))

    if (folder / MANIFEST).exists():
        known = str(read_manifest(folder, None)[0].get("head"))
        return shelf.get(known, identity=identity, fetch=lambda _: calibrated())
    return shelf.get(shelf.put(calibrated()), identity=identity)
