"""What a rollout must agree on with the rest of its recipe."""

from __future__ import annotations

from collections.abc import Iterable

from potstill.core.task import Task
from potstill.data.settings import DataSettings
from potstill.recipe_rules import Contradiction, Path, Stage, Training


def rollout_rules(task: Task, data: DataSettings, stage: Stage) -> Iterable[Contradiction]:
    """The student's own text is new at every step, belongs to a language model, and goes on from a prompt."""
    rollout, training = stage.training.rollout, stage.training
    if rollout is None:
        return
    path = (*stage.path, "rollout")
    if task != "causal-lm":
        yield Contradiction(path, f"needs a student that writes, and task {task} has none: only for task causal-lm")
    yield from _rows_are_commented_on(training, stage.path)
    if rollout.lmbda == 1 and training.objective.hard_weight > 0:
        reason = f"is 1, so no batch has labels, and objective.hard_weight is {training.objective.hard_weight:g}: set "
        yield Contradiction((*path, "lmbda"), reason + "it to 0, or learn from some data too")
    kinds = {source.rows for source in data.train}
    if rollout.prompt_tokens is None and "text" in kinds:
        reason = "is missing: rows of text have no prompt; say after how many tokens the student goes on"
        yield Contradiction((*path, "prompt_tokens"), reason)
    elif rollout.prompt_tokens is not None and kinds != {"text"}:
        reason = f"cuts rows of text, and rows: {', '.join(sorted(kinds - {'text'}))} have prompts of their own: "
        yield Contradiction((*path, "prompt_tokens"), reason + "remove it, or take one kind of rows")
    if rollout.prompt_tokens is not None and rollout.prompt_tokens >= data.max_length:
        reason = f"is {rollout.prompt_tokens}, and a row has at most {data.max_length} tokens: lower it"
        yield Contradiction((*path, "prompt_tokens"), reason)
    if rollout.adaptive is not None:
        needed = {"data.validation": data.validation, "train.eval_steps": training.train.eval_steps}
        if missing := [name for name, given in needed.items() if given is None]:
            yield Contradiction((*path, "adaptive"), f"follows the validation loss: set {' and '.join(missing)}")
        size = training.train.per_device_train_batch_size
        if rollout.adaptive.capacity < size:
            reason = f"is {rollout.adaptive.capacity}, and a batch of {size} rows is drawn from the buffer: raise it"
            yield Contradiction((*path, "adaptive", "capacity"), reason)


def _rows_are_commented_on(training: Training, path: Path) -> Iterable[Contradiction]:
    """A teacher that is asked about rows nobody has seen before."""
    teacher = training.teacher
    if teacher is None or training.objective.soft_weight == 0:
        reason = "needs a teacher that comments on what the student writes, and there is none: remove rollout"
        yield Contradiction((*path, "rollout"), reason)
        return
    new = "and with rollout the rows are new each time"
    wrong = {
        "store": (teacher.store is not None, f"keeps answers for later passes, {new}: remove it"),
        "cache": (teacher.cache, f"keeps one answer for each row, {new}: set it to false"),
        "endpoint": (
            teacher.endpoint is not None,
            "is somebody else's server, which would be sent, and be paid for, new text at every step: take models",
        ),
        "prefetch": (
            bool(teacher.urls) and teacher.prefetch > 0,
            f"is {teacher.prefetch}: asks about batches before the step whose student writes them; set it to 0",
        ),
        "vocabulary": (
            teacher.vocabulary == "aligned",
            "`aligned` needs tokens that a tokenizer would choose, and a student may write others: take a teacher with "
            "the student's tokenizer",
        ),
    }
    for name, (is_wrong, reason) in wrong.items():
        if is_wrong:
            yield Contradiction((*path, "teacher", name), reason)
