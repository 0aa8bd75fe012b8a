"""Varied rows for a stage: a masked language model proposes words, once, and what was drawn lies in the run folder."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.bench import Bench
from potstill.config import StageSettings
from potstill.core.example import Example
from potstill.data.augment.draw import Tally, parts_of, variation, varied
from potstill.data.augment.settings import AugmentSettings
from potstill.data.prepare import Prepared, extended
from potstill.durable import writing
from potstill.proposing import Proposer
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings

FOLDER, ROWS, ACCOUNT = "augmented", "rows.jsonl", "account.json"
CHUNK = 512


def augmented(bench: Bench, stage: StageSettings, prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """The data with varied rows behind the rows it has, under the same tokenizer; itself where the stage asks for none.

    Raises ModelError for a model that proposes no words.
    """
    settings = stage.augment
    if settings is None:
        return prepared
    examples = prepared.train.examples
    place = _place(bench, settings, examples)
    if not bench.ranks.lead((bench.folder.root / place / ACCOUNT).exists):
        _write(bench, settings, examples, place)
    maker = bench.folder.read_json(f"{place}/{ACCOUNT}")["model"]
    rows = bench.folder.read_lines(f"{place}/{ROWS}")
    made = [variation(examples[row["row"]], row["texts"], settings, maker=maker) for row in rows]
    return extended(prepared, made, bench.recipe.data, tokenizer, bench.recipe.task)


def account(bench: Bench, stage: StageSettings, prepared: Prepared) -> dict[str, Any] | None:
    """What the varying did, for the stage's record. prepared: the data before it."""
    if stage.augment is None:
        return None
    found: dict[str, Any] = bench.folder.read_json(f"{_place(bench, stage.augment, prepared.train.examples)}/{ACCOUNT}")
    return found


def _place(bench: Bench, settings: AugmentSettings, examples: Sequence[Example]) -> str:
    """Stages that ask for the same find the same rows."""
    terms = {
        "settings": settings.model_dump(mode="json"),
        "seed": bench.recipe.seed,
        "longest": bench.recipe.data.max_length,
        "rows": [[one.id, one.label] for one in examples],
    }
    return f"{FOLDER}/{hashlib.sha256(json.dumps(terms, sort_keys=True).encode()).hexdigest()[:12]}"


@dataclass(slots=True)
class Work:
    """What the leader has done of it."""

    proposer: Proposer | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)


def _write(bench: Bench, settings: AugmentSettings, examples: Sequence[Example], place: str) -> None:
    """In small steps on the leader, as the other ranks wait for each of them; the account is written last."""
    bench.say(f"varying {len(examples):,} rows, {settings.copies} copies each, once")
    began, spoke, work = time.monotonic(), time.monotonic(), Work()
    bench.ranks.lead(lambda: _begin(bench, settings, examples, work))
    for start in range(0, len(examples), CHUNK):
        bench.stop.check()
        if time.monotonic() - spoke > 10:
            spoke = time.monotonic()
            bench.say(f"  row {start:,} of {len(examples):,}")
        bench.ranks.lead(lambda start=start: _vary(bench, settings, examples, start, work))
    bench.ranks.lead(lambda: _finish(bench, place, work, time.monotonic() - began))


def _begin(bench: Bench, settings: AugmentSettings, examples: Sequence[Example], work: Work) -> None:
    named = ModelSettings(model_name_or_path=settings.model_name_or_path)
    loaded = load_model(
        named,
        task="masked-lm",
        labels=None,
        folder_of=bench.products,
        trust_remote_code=bench.trust_remote_code,
    )
    longest = bench.recipe.data.max_length
    work.proposer = Proposer(loaded, settings, longest, [text for one in examples for text in parts_of(one).values()])


def _vary(bench: Bench, settings: AugmentSettings, examples: Sequence[Example], start: int, work: Work) -> None:
    assert work.proposer is not None, "the leader has begun"
    chunk = examples[start : start + CHUNK]
    texts = [(row, name, text) for row, one in enumerate(chunk) for name, text in parts_of(one).items()]
    found = work.proposer.propose([text for _, _, text in texts])
    proposals: list[dict[str, list[tuple[str, ...]]]] = [{} for _ in chunk]
    for (row, name, _), words in zip(texts, found, strict=True):
        proposals[row][name] = words
    for row, one in enumerate(chunk):
        made = varied(one, proposals[row], settings, seed=bench.recipe.seed, tally=work.tally)
        work.rows += [{"row": start + row, "texts": other} for other in made]


def _finish(bench: Bench, place: str, work: Work, seconds: float) -> None:
    assert work.proposer is not None, "the leader has begun"
    folder = bench.folder.root / place
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    bench.folder.write_lines(f"{place}/{ROWS}", work.rows)
    read = work.proposer
    told = {"model": read.loaded.record.fingerprint, **asdict(work.tally), "hidden_words": read.hidden,
            "static_words": read.static, "forward_tokens": read.tokens, "seconds": seconds}  # fmt: skip
    bench.folder.write_json(f"{place}/{ACCOUNT}", told)
    bench.say(f"{work.tally.rows:,} varied rows, {work.tally.replaced:,} of {work.tally.words:,} words replaced")
