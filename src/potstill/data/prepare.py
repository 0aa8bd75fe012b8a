"""All of a recipe's data: sources read, splits kept apart, rows encoded. The one function other rooms call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from transformers import PreTrainedTokenizerBase

from potstill.core.errors import DataError
from potstill.core.example import Example
from potstill.core.lineage import Lineage
from potstill.core.task import Task
from potstill.data.collate import Collate, collator
from potstill.data.columns import Placed
from potstill.data.encode import Encoder
from potstill.data.encoded import Encoded
from potstill.data.masking import smoothed
from potstill.data.order import fingerprint
from potstill.data.pack import pack
from potstill.data.quarantine import Quarantine
from potstill.data.settings import DataSettings, SourceSettings
from potstill.data.sources import Opened, open_source, read_source


@dataclass(frozen=True, slots=True)
class Split:
    """One use of the data. Unless packed, `encoded[i]` has row i and belongs to `examples[i]`."""

    name: str
    examples: tuple[Example, ...]
    encoded: tuple[Encoded, ...]
    packed: bool = False

    @property
    def labelled(self) -> tuple[Encoded, ...]:
        """The rows whose label is known."""
        return tuple(one for one in self.encoded if one.label is not None)

    def summary(self) -> dict[str, Any]:
        """Counts and hash for the run's record."""
        lengths = sorted(one.length for one in self.encoded)
        return {
            "examples": len(self.examples),
            "rows": len(self.encoded),
            "labelled": len(self.labelled),
            "tokens": sum(lengths),
            "median_tokens": lengths[len(lengths) // 2],
            "longest_tokens": lengths[-1],
            "fingerprint": fingerprint(self.encoded),
        }


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training and evaluation read. labels: class names in order of their index, () where nothing names them.

    collate: makes batches of these rows, with the recipe's seed; learnt: the same of rows that are learnt from, which
    may hide other tokens (data.mask_smoothing).
    """

    train: Split
    validation: Split | None
    test: Split | None
    labels: tuple[str, ...]
    lineages: tuple[Lineage, ...]
    quarantine: Quarantine
    collate: Collate
    learnt: Collate

    def summary(self) -> dict[str, Any]:
        """Counts, hashes and reasons for the run's record and the report."""
        splits = [split for split in (self.train, self.validation, self.test) if split is not None]
        return {
            "splits": {split.name: split.summary() for split in splits},
            "labels": list(self.labels),
            "refused": dict(self.quarantine.counts),
        }


def prepare(
    data: DataSettings,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    seed: int = 0,
    context: int | None = None,
) -> Prepared:
    """Read and encode everything.

    Rows of train that are also in validation or test, and rows of validation that are also in test, are removed and
    counted: otherwise the report would praise memory. context: the most tokens the model reads, where known.

    Raises:
        DataError: whatever is wrong with a source or a row; a use without any row left, with the count per reason.
    """
    quarantine = Quarantine(data.on_bad_row)
    encoder = Encoder(tokenizer, data, task, context)
    named = {"train": data.train, "validation": _one(data.validation), "test": _one(data.test)}
    doors = {name: [(source, open_source(source, quarantine)) for source in some] for name, some in named.items()}
    labels = _labels(data, [door for some in doors.values() for door in some]) if task == "classify" else None
    rows = {
        name: list(
            chain.from_iterable(
                read_source(source, task=task, labels=labels, quarantine=quarantine, opened=opened)
                for source, opened in some
            )
        )
        for name, some in doors.items()
    }
    held = {name: [placed.example for placed in rows[name]] for name in ("test", "validation")}
    rows["validation"] = _without(rows["validation"], held["test"], "validation row also in test", quarantine)
    for name, some in held.items():
        rows["train"] = _without(rows["train"], some, f"train row also in {name}", quarantine)
    lineages = dict.fromkeys(placed.example.lineage for some in rows.values() for placed in some)
    splits = {
        name: _split(name, placed, encoder, quarantine) for name, placed in rows.items() if named[name]
    }  # fmt: skip
    plain = collator(tokenizer, task, seed)
    learnt = plain
    if data.mask_smoothing is not None:
        weights_V = smoothed((one.tokens for one in splits["train"].encoded), len(tokenizer), data.mask_smoothing)
        learnt = collator(tokenizer, task, seed, weights_V)
    return Prepared(
        train=splits["train"],
        validation=splits.get("validation"),
        test=splits.get("test"),
        labels=tuple(labels or ()),
        lineages=tuple(lineages),
        quarantine=quarantine,
        collate=plain,
        learnt=learnt,
    )


def extended(
    prepared: Prepared, examples: Sequence[Example], data: DataSettings, tokenizer: PreTrainedTokenizerBase, task: Task
) -> Prepared:
    """The same data with more training rows behind those there are; what is also in validation or test is left out and
    counted, like what no tokenizer can use.

    Raises:
        DataError: a row that does not fit, by the recipe's policy.
    """
    quarantine = prepared.quarantine
    rows = [Placed(one, "varied rows", number) for number, one in enumerate(examples, start=1)]
    for split in (prepared.test, prepared.validation):
        if split is not None:
            rows = _without(rows, split.examples, f"varied row also in {split.name}", quarantine)
    more, encoded = Encoder(tokenizer, data, task).encode(rows, quarantine)
    before = prepared.train
    numbered = [replace(one, row=len(before.encoded) + at) for at, one in enumerate(encoded)]
    train = Split("train", (*before.examples, *more), (*before.encoded, *numbered))
    lineages = tuple(dict.fromkeys((*prepared.lineages, *(one.lineage for one in more))))
    return replace(prepared, train=train, lineages=lineages)


def _one(source: SourceSettings | None) -> tuple[SourceSettings, ...]:
    return () if source is None else (source,)


def _labels(data: DataSettings, doors: Sequence[tuple[SourceSettings, Opened]]) -> tuple[str, ...] | None:
    """data.labels, else the classes that the sources know, which then must agree."""
    if data.labels is not None:
        if twice := [name for name in data.labels if data.labels.count(name) > 1]:
            raise DataError(f"data.labels names `{twice[0]}` twice; a class has one name and one place")
        return data.labels
    known = {opened.labels: opened.name for _, opened in doors if opened.labels is not None}
    if len(known) > 1:
        (first, one), (second, other) = list(known.items())[:2]
        raise DataError(
            f"{one} knows {len(first or ())} classes and {other} knows {len(second or ())} that are not the same; "
            f"list the classes in data.labels"
        )
    return next(iter(known), None)


def _key(example: Example) -> str:
    """Content without case and spacing: a copy stays a copy when it is reformatted."""
    turns = [message.content for message in example.messages]
    return "\x1f".join(" ".join(part.split()).casefold() for part in
                       (example.prompt, example.response, example.pair or "", *turns))  # fmt: skip


def _without(rows: Sequence[Placed], held: Sequence[Example], reason: str, quarantine: Quarantine) -> list[Placed]:
    keys = {_key(example) for example in held}
    kept = [placed for placed in rows if _key(placed.example) not in keys]
    quarantine.count(reason, len(rows) - len(kept))
    return kept


def _split(name: str, placed: list[Placed], encoder: Encoder, quarantine: Quarantine) -> Split:
    examples, encoded = encoder.encode(placed, quarantine)
    packed = encoder.settings.pack
    if packed and encoded:
        length = encoder.settings.max_length
        encoded, left = pack(encoded, length)
        quarantine.count(f"{name} tokens left over by packing", left)
        if not encoded:
            raise DataError(
                f"data.{name} has {left} tokens and a packed row needs {length}; add text, lower data.max_length, or "
                f"set data.pack: false"
            )
    if not encoded:
        raise DataError(
            f"data.{name} has no rows left to learn from ({quarantine.summary()}); check the source and its columns"
        )
    return Split(name, tuple(examples), tuple(encoded), packed)
