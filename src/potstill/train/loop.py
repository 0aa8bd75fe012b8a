"""The one loop. A method may change the source, the teacher, the objective or the order of stages; never this.

Between two steps the loop evaluates and saves where that is due; the order (step, evaluate, save) is the same on every
path, so that a run stopped anywhere does, when it goes on, exactly what it would have done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from potstill.core.errors import DiskError, NumbersError, RunError, Stopped, TeacherAway
from potstill.core.protocols import Observer
from potstill.train.capture import restore_buffers
from potstill.train.determinism import deterministic, restore_random_state
from potstill.train.judge import judge
from potstill.train.metrics import metrics_file
from potstill.train.optimise import schedule_factor, set_learning_rate, warmup_steps
from potstill.train.pause import pause, save_between_steps
from potstill.train.plan import TrainPlan, TrainResult
from potstill.train.resume import Running, begin, boundary, save
from potstill.train.step import Bad, StepOutcome, take_step
from potstill.train.stop import StopFlag


def train(plan: TrainPlan, *, flag: StopFlag, observers: Sequence[Observer] = ()) -> TrainResult:
    """Train until `max_steps` or until patience ends; go on from `plan.folder` if something was saved there.

    Raises Stopped after a signal, with the state saved; NumbersError when more steps than `skip_bad_steps` had numbers
    that are not finite; DiskError or FolderError when a save fails (earlier ones stand); FolderError and
    CheckpointError when what is saved cannot be continued; InputError when the plan contradicts itself.
    """
    with deterministic(), metrics_file(plan.folder / "metrics.jsonl", kept=plan.ranks.leads) as curve:
        running = begin(plan, flag=flag, observers=observers, curve=curve)
        try:
            while True:
                flag.check()
                _between_steps(running)
                if _finished(running):
                    break
                try:
                    _advance(running, flag)
                except TeacherAway as away:
                    pause(running, away, poll=flag.check)
        except (NumbersError, DiskError):
            raise
        except Stopped as stop:
            save_between_steps(running)
            running.notify("end", {"reason": f"signal {stop.exit_code - 128}"})
            place = f"saved at step {running.standing.step}; resume with `{plan.resume_command}`"
            raise Stopped(stop.exit_code - 128, place) from None
        except RunError:  # a teacher that is of no use: the weights are sound, and nothing since the last step is lost
            save_between_steps(running)
            raise
        return _result(running)


def _between_steps(running: Running) -> None:
    """Evaluate and save where it is due."""
    plan, now = running.plan, running.standing
    due = now.step > 0 and (now.step >= plan.max_steps or _divides(plan.settings.eval_steps, now.step))
    if plan.evaluate is not None and due and now.evaluated != now.step:
        _evaluate(running)
    every = plan.settings.save_steps or plan.settings.eval_steps
    is_best = now.step > 0 and now.best_step == now.step
    if is_best or _finished(running) or (now.step > 0 and _divides(every, now.step)):
        save(running)


def _divides(period: int | None, step: int) -> bool:
    return period is not None and step % period == 0


def _evaluate(running: Running) -> None:
    """Measure, and leave no trace in the random numbers: how often is measured does not change what is learnt."""
    plan, now = running.plan, running.standing
    assert plan.evaluate is not None
    plan.module.eval()
    try:
        found = dict(plan.evaluate())
    finally:
        plan.module.train()
        restore_random_state(running.before.random)
    metrics = plan.ranks.lead(lambda: found)
    now.metrics, now.evaluated = metrics, now.step
    if now.step >= plan.shaping.settled:
        judge(now, plan.settings, metrics)
    running.curve.append("evaluate", now.step, {f"validation.{name}": value for name, value in metrics.items()})
    running.notify("evaluate", metrics)


def _patience_ended(running: Running) -> bool:
    patience = running.plan.settings.early_stop_patience
    return patience is not None and running.standing.without_better >= patience


def _finished(running: Running) -> bool:
    return running.standing.step >= running.plan.max_steps or _patience_ended(running)


def _advance(running: Running, flag: StopFlag) -> None:
    """One optimiser step, taken or skipped."""
    plan, now, settings = running.plan, running.standing, running.plan.settings
    started = time.perf_counter()
    plan.shaping.before(now.step)
    warmup = warmup_steps(settings, plan.max_steps)
    factor = schedule_factor(settings.lr_scheduler_type, now.step, warmup=warmup, max_steps=plan.max_steps)
    set_learning_rate(running.optimiser, factor)
    batches = [plan.source.next() for _ in range(settings.gradient_accumulation_steps)]
    outcome = take_step(plan, running.optimiser, batches, bf16=running.precision.bf16, poll=flag.check)
    now.step += 1
    now.examples += sum(len(batch.ids) for batch in batches)
    now.tokens += sum(batch.tokens_read for batch in batches)
    now.seconds += time.perf_counter() - started
    if outcome.bad is not None:
        _skip(running, outcome.bad)
    _record(running, outcome, settings.learning_rate * factor)
    running.before = boundary(plan)


def _skip(running: Running, bad: Bad) -> None:
    """Say which rows, take back what the forward pass changed in buffers, and stop if it was once too often."""
    plan, now = running.plan, running.standing
    now.skipped += 1
    restore_buffers(plan.module, running.before.buffers)
    running.curve.append("skip", now.step, {"part": bad.part, "ids": list(bad.ids)})
    running.notify("skip", {"part": bad.part, "ids": bad.ids})
    allowed = plan.settings.skip_bad_steps
    if now.skipped > allowed:
        saved = f"step-{max(running.kept)} is the last save" if running.kept else "nothing was saved yet"
        raise NumbersError(
            f"step {now.step}: not finite: {bad.part}, rows {', '.join(bad.ids)}. The update was not applied; "
            f"{now.skipped} such steps are more than train.skip_bad_steps = {allowed} allows, {saved}. Look at these "
            f"rows, or lower train.learning_rate (now {plan.settings.learning_rate})"
        )


def _record(running: Running, outcome: StepOutcome, learning_rate: float) -> None:
    """Add the step to the running averages; write a line of the curve every `logging_steps`."""
    plan, now = running.plan, running.standing
    if outcome.bad is None:
        values = {"loss": outcome.loss, **{f"part.{name}": value for name, value in outcome.parts.items()}}
        values |= {f"share.{name}": value for name, value in outcome.shares.items()}
        for name, value in values.items():
            now.window[name] = now.window.get(name, 0.0) + value
        now.window_steps += 1
        rates = {"grad_norm": outcome.grad_norm, "learning_rate": learning_rate}
        running.notify("step", {**values, **rates})
    if now.step % plan.settings.logging_steps == 0 or now.step >= plan.max_steps:
        means = {name: total / now.window_steps for name, total in now.window.items()}
        counts = {"examples": now.examples, "tokens": now.tokens, "seconds": now.seconds}
        running.curve.append(
            "step", now.step, {**means, "learning_rate": learning_rate, "grad_norm": outcome.grad_norm, **counts}
        )
        now.window, now.window_steps = {}, 0


def _result(running: Running) -> TrainResult:
    plan, now = running.plan, running.standing
    best = now.best_step or now.step
    early = now.step < plan.max_steps
    running.notify("end", {"reason": "patience ended" if early else "done", "best": f"step-{best}"})
    return TrainResult(
        step=now.step,
        last=plan.checkpoints / f"step-{now.step}",
        best=plan.checkpoints / f"step-{best}",
        best_step=best,
        best_value=now.best_value,
        metrics=dict(now.metrics),
        stopped_early=early,
        skipped=now.skipped,
        examples=now.examples,
        tokens=now.tokens,
        seconds=now.seconds,
        precision=running.precision,
    )
