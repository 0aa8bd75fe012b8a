"""Names and places in a recipe: it may come from anybody, so what it names stays below the working directory."""

from __future__ import annotations

from collections.abc import Iterable

from potstill.core.names import why_no_name, why_not_below
from potstill.core.task import Task
from potstill.recipe_rules import Contradiction, Path, Stage


def artefact_rules(name: str | None) -> Iterable[Contradiction]:
    """The name of an export is the name of a folder inside the run."""
    if name is not None and (reason := why_no_name(name)):
        yield Contradiction(("export", "name"), f"{name[:60]!r} {reason}")


def name_rules(name: str) -> Iterable[Contradiction]:
    """The name of a recipe is the name of its run folder, unless another is given."""
    if reason := why_no_name(name):
        yield Contradiction(("name",), f"{name[:60]!r} {reason}")


def place_rules(place: str | None, name: str = "output_dir", option: str = "--output-dir") -> Iterable[Contradiction]:
    """A recipe may come from anybody, so it writes below the working directory; the command line may name any place."""
    if place is not None:
        yield from _below_here(place, (name,), f"use {option} for any other place")


def store_rules(task: Task, stage: Stage) -> Iterable[Contradiction]:
    """Signals are kept where rows are the same in every pass and are many positions long, in a form that fits."""
    teacher = stage.training.teacher
    if teacher is None or teacher.store is None:
        return
    path, store = (*stage.path, "teacher", "store"), teacher.store
    if task != "causal-lm":
        reason = f"keeps the signals of task causal-lm; this task is {task}"
        yield Contradiction(path, reason + ("; use teacher.cache" if task == "classify" else ", which masks rows anew"))
    if store.form == "top-k" and stage.training.objective.top_k is None:
        yield Contradiction((*path, "form"), "`top-k` needs objective.top_k: how many entries are kept")
    if store.form == "top-k" and len(teacher.models) + bool(teacher.urls) > 1:
        reason = "`top-k` of several teachers cannot be averaged; keep last states or logits"
        yield Contradiction((*path, "form"), reason)
    if store.path is not None:
        moved = "move or link the store there"
        yield from _below_here(store.path, (*path, "path"), moved)


def _below_here(place: str, path: Path, otherwise: str) -> Iterable[Contradiction]:
    if reason := why_not_below(place):
        yield Contradiction(path, f"{place[:60]!r} {reason}; {otherwise}")
