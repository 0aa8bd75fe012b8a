"""A teacher behind its store: what it said once is read, what it did not say yet is asked and kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import HeadedStates, Want
from potstill.data.collate import Collate
from potstill.data.encoded import Encoded
from potstill.durable import replace_file, writing
from potstill.students.load import LoadedModel
from potstill.students.taps import output_head
from potstill.teachers.forms import FORMS
from potstill.teachers.head import HeadShelf, pack_head
from potstill.teachers.identity import Identity
from potstill.teachers.int8 import channel_scales
from potstill.teachers.local import LocalTeacher
from potstill.teachers.manifest import MANIFEST, read_manifest
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.remote import RemoteTeacher
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from potstill.teachers.true_head import identity_of, refuse_false_head
from potstill.teachers.wire import Frame

# With half of these rows of 256 tokens the median channel scale is 2 % off (docs/results/wire.md).
CALIBRATION_ROWS = 32
ELSEWHERE = "elsewhere.json"


@dataclass(frozen=True, slots=True)
class Asked:
    """Whoever is asked for what a store lacks. how: what else makes its answers others (bf16; who serves them, with
    which head). head: makes the frame of its head. urls, facts: of one that is elsewhere, as it describes itself."""

    teacher: Teacher
    identity: Identity
    how: Mapping[str, Any]
    head: Callable[[], Frame]
    urls: tuple[str, ...] = ()
    facts: Mapping[str, Any] | None = None


def asked_here(
    live: LocalTeacher, loaded: LoadedModel, rows: Sequence[Encoded], collate: Collate, *, bf16: bool = False
) -> Asked:
    """A model of this process, its channel scales taken from the first rows."""
    identity = identity_of(loaded)

    def calibrated() -> Frame:
        refuse_false_head(live, collate(rows[:1], 0), bf16=bf16)
        said = []
        for row in rows[:CALIBRATION_ROWS]:
            batch = collate([row], 0)
            states = live.signal(batch, Want(logits=False, headed=True)).logits
            assert isinstance(states, HeadedStates), "last states were asked for"
            said.append(states.states_BTD[batch.weights["soft"] != 0])
        return pack_head(output_head(loaded.module).detached(), identity, channel_scales(torch.cat(said)))

    return Asked(live, identity, {"bf16": bf16}, calibrated)


def asked_elsewhere(teacher: RemoteTeacher, urls: Sequence[str]) -> Asked:
    """A teacher that is served."""
    facts = teacher.facts
    return Asked(teacher, teacher.identity, _served(facts), teacher.head_frame, tuple(urls), facts)


def _served(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"served": True, "head": facts.get("head")}


def replayed(
    bench: Bench, stage: StageSettings, asked: Asked, rows: Sequence[Encoded], collate: Collate, place: Path
) -> StoredTeacher:
    """The teacher as the stage's objective hears it: every signal comes out of the store, in the first pass too.

    A shard that is damaged is named and its rows are asked for again. Where the store has every row a model is not
    needed any more and its memory is free. Raises SignalError for a head that is not linear, and what the store raises.
    """
    identity, form = asked.identity, _form(stage)
    folder = _root(stage, place) / _name(stage, identity, asked.how)
    head = None
    if FORMS[form].says == "hidden":
        # Only the leader writes; the others find what it kept.
        kept = bench.ranks.lead(lambda: _head(folder, asked))
        head = HeadShelf(folder).get(kept, identity=identity)
    packing = _packing(stage, identity, head)
    for damage in bench.ranks.lead(lambda: _damages(folder, packing)):
        bench.say(damage)
    store = SignalStore(folder, packing.as_meta())
    missing = bench.ranks.lead(lambda: _missing(store, rows, collate))
    name = identity.voice.teacher
    bench.say(
        f"what teacher {name} says is kept in {folder} ({store.rows:,} rows so far)"
        if missing
        else f"{folder} holds what teacher {name} says of all {len(rows):,} rows: it is not asked again"
    )
    if asked.facts is not None:
        bench.ranks.lead(lambda: _introduce(folder, asked))
    if missing and bench.ranks.size > 1:
        _record(bench, StoredTeacher(store, packing, asked.teacher), [rows[row] for row in missing], collate)
        store, missing = SignalStore(folder, packing.as_meta()), []
    found = StoredTeacher(store, packing, asked.teacher if missing else None)
    bench.closing.callback(found.close)
    return found


def recalled(
    bench: Bench, stage: StageSettings, rows: Sequence[Encoded], collate: Collate, place: Path
) -> tuple[StoredTeacher, Mapping[str, Any]] | None:
    """The teacher elsewhere out of a store alone, with what it said of itself: nobody is asked. None where no store, or
    more than one, has every row by a teacher of these addresses in this form; then the teacher must say who it is."""
    assert stage.teacher is not None, "a stage with a store has a teacher"
    root, urls = _root(stage, place), set(stage.teacher.urls)

    def whole() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"complete": [], "damages": []}
        for file in sorted(root.glob(f"*/{ELSEWHERE}")):
            if (opened := _opened(stage, file, urls)) is not None:
                found["damages"] += (damages := _damages(file.parent, opened[0]))
                if not damages and not _missing(_store(file.parent, opened[0]), rows, collate):
                    found["complete"].append(file.parent.name)
        return found

    seen = bench.ranks.lead(whole)
    for damage in seen["damages"]:
        bench.say(damage)
    if len(seen["complete"]) != 1:
        return None
    folder = root / seen["complete"][0]
    opened = _opened(stage, folder / ELSEWHERE, urls)
    assert opened is not None, "the leader opened it"
    packing, facts = opened
    bench.say(
        f"{folder} holds what teacher {packing.identity.voice.teacher} says of all {len(rows):,} rows: nobody "
        "elsewhere is asked"
    )
    return StoredTeacher(_store(folder, packing), packing), facts


def _opened(stage: StageSettings, file: Path, urls: set[str]) -> tuple[Packing, dict[str, Any]] | None:
    """The terms of a store that was recorded from one of these addresses in this stage's form, and who spoke."""
    try:
        values = json.loads(file.read_bytes())
        facts = dict(values["facts"])
        identity = Identity.from_meta(facts["identity"])
        if not urls & set(values["urls"]) or file.parent.name != _name(stage, identity, _served(facts)):
            return None
        head = None
        if FORMS[_form(stage)].says == "hidden":
            head = HeadShelf(file.parent).get(str(facts.get("head")), identity=identity)
        return _packing(stage, identity, head), facts
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SignalError):
        return None  # whoever is there will be asked


def _introduce(folder: Path, asked: Asked) -> None:
    values = json.dumps({"urls": sorted(asked.urls), "facts": asked.facts}, indent=1).encode()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / ELSEWHERE, values)


def _form(stage: StageSettings) -> Any:
    settings = stage.teacher.store if stage.teacher else None
    assert settings is not None, "a stage with a store has its settings"
    return settings.form


def _root(stage: StageSettings, place: Path) -> Path:
    settings = stage.teacher.store if stage.teacher else None
    assert settings is not None, "a stage with a store has its settings"
    return Path(settings.path) if settings.path else place / "signals"


def _name(stage: StageSettings, identity: Identity, how: Mapping[str, Any]) -> str:
    """Of a store's folder: teachers, forms and terms do not mix."""
    terms = {"form": _form(stage), "teacher": identity.as_meta(), **how}
    if FORMS[_form(stage)].says == "top-k":
        terms |= {"top_k": stage.objective.top_k, "temperature": stage.objective.temperature}
    named = hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:8]
    return f"{identity.voice.teacher}-{named}"


def _packing(stage: StageSettings, identity: Identity, head: Any) -> Packing:
    sparse = FORMS[_form(stage)].says == "top-k"
    return Packing(
        _form(stage),
        identity,
        head=head,
        top_k=stage.objective.top_k if sparse else None,
        temperature=stage.objective.temperature if sparse else 1.0,
    )


def _store(folder: Path, packing: Packing) -> SignalStore:
    return SignalStore(folder, packing.as_meta())


def _damages(folder: Path, packing: Packing) -> list[str]:
    store = _store(folder, packing)
    found = store.verify()
    store.close()
    return found


def _missing(store: SignalStore, rows: Sequence[Encoded], collate: Collate) -> list[int]:
    return [row for row, one in enumerate(rows) if row_keys(collate([one], 0))[0] not in store]


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


def _head(folder: Path, asked: Asked) -> str:
    """The hash of the head the store was begun with, else of the teacher's, which is kept."""
    shelf = HeadShelf(folder)
    if (folder / MANIFEST).exists():
        known = str(read_manifest(folder, None)[0].get("head"))
        return shelf.get(known, identity=asked.identity, fetch=lambda _: asked.head()).sha256
    return shelf.put(asked.head())
