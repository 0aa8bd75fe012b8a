"""The student as a Hugging Face folder: written aside, compared with the trained model, then moved into place.

A reader of the target never sees half a folder, nor one that answers otherwise than the trained model: an export that
fails its comparison is kept beside it as NAME.failed, to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from potstill.core.errors import DiskError, FolderError
from potstill.core.outcome import Finding
from potstill.core.task import Task
from potstill.export.card import CardFacts, model_card
from potstill.export.rows import NO_ROWS, Rows
from potstill.export.settings import ExportSettings
from potstill.export.strip import refuse_training_parts
from potstill.export.verify import verify
from potstill.students.load import LoadedModel
from potstill.students.save import save_model

# What the comparison found, in the folder that it is about.
COMPARISON = "comparison.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """Where the folder is (NAME.failed when it was not published) and what the comparison found."""

    folder: Path
    findings: tuple[Finding, ...]

    @property
    def published(self) -> bool:
        """Whether the folder may be used."""
        return all(finding.verdict != "stop" for finding in self.findings)


def export_huggingface(
    trained: LoadedModel,
    target: Path,
    *,
    task: Task,
    facts: CardFacts,
    settings: ExportSettings,
    rows: Rows = NO_ROWS,
) -> Exported:
    """Weights, config, tokenizer, chat template and card in `target`, which any transformers loads. rows: not needed,
    as the weights stay what they are.

    Raises ModelError for weights that only training needed, FolderError and DiskError when it cannot be written.
    """
    refuse_training_parts(trained.module)
    return publish(
        target,
        write=lambda folder: save_model(trained, folder),
        check=lambda folder: verify(folder, trained, task=task, tolerance=settings.tolerance),
        card=lambda findings: model_card(facts, findings),
        notices=facts.notices,
    )


def publish(
    target: Path,
    *,
    write: Callable[[Path], None],
    check: Callable[[Path], list[Finding]],
    card: Callable[[list[Finding]], str],
    notices: Sequence[str] = (),
) -> Exported:
    """Write aside, check, add the card, the notices and what was found, and move into place if nothing says stop. An
    earlier export stands until then.

    Raises FolderError when the target is a file or cannot be written, DiskError when the disk is full, and whatever
    the three callables raise; nothing half-written is left in any of these cases.
    """
    if target.exists() and not target.is_dir():
        raise FolderError(f"{target} is a file, so no model folder can be written there. Next: choose another name.")
    aside = _beside(target, "partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _put_back(target)
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        write(aside)
        findings = check(aside)
        (aside / "README.md").write_text(card(findings), encoding="utf-8")
        (aside / COMPARISON).write_text(told(findings), encoding="utf-8")
        if notices:
            (aside / "NOTICE").write_text("\n\n".join(notices) + "\n", encoding="utf-8")
        _flush(aside)
        exported = Exported(target, tuple(findings))
        if not exported.published:
            exported = Exported(target.with_name(f"{target.name}.failed"), tuple(findings))
        _replace(aside, exported.folder)
    except PermissionError as error:
        raise FolderError(
            f"{target}: the folder cannot be written ({error.strerror}). Next: choose another output_dir."
        ) from error
    except OSError as error:
        raise DiskError(
            f"{target}: the export could not be written ({error.strerror or error}); an earlier export stands. "
            f"Next: make room ({_free(target)} bytes are free) and export again."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return exported


def told(findings: Sequence[Finding]) -> str:
    """Findings as JSON."""
    return json.dumps([finding.as_json() for finding in findings], indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _replace(source: Path, target: Path) -> None:
    """Two renames, as a folder cannot be renamed over another. The old one is removed last, or put back."""
    old = _beside(target, "old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    try:
        source.rename(target)
    except OSError:
        _put_back(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _put_back(target: Path) -> None:
    """A process that died between the two renames left the earlier export under another name."""
    old = _beside(target, "old")
    if old.exists() and not target.exists():
        old.rename(target)


def _flush(folder: Path) -> None:
    """To the disk, before the rename that makes it count."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())


def _beside(target: Path, role: str) -> Path:
    return target.with_name(f".{target.name}.{role}")


def _free(target: Path) -> int:
    place = next(parent for parent in (target, *target.parents) if parent.exists())
    return shutil.disk_usage(place).free
