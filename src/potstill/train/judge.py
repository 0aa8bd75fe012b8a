"""Is it better, and by enough? What an evaluation says of the best checkpoint, and of whether to go on."""

from __future__ import annotations

import math
from collections.abc import Mapping

from potstill.core.errors import InputError, NumbersError
from potstill.train.resume import Standing
from potstill.train.settings import TrainSettings

# The last word of a metric's name. Every other metric is better when higher.
LOWER_IS_BETTER = ("loss", "perplexity", "cross_entropy", "kl", "mean_kl", "ece", "brier")


def gain(metric: str, value: float, before: float) -> float:
    """By how much a value of the metric is better than another one, in its own unit."""
    return before - value if metric.rsplit(".", 1)[-1] in LOWER_IS_BETTER else value - before


def judge(now: Standing, settings: TrainSettings, metrics: Mapping[str, float]) -> None:
    """Note whether these metrics, of the step that `now` stands at, are the best yet and a gain.

    Small gains add up: the value to beat by `early_stop_threshold` is that of the last gain that was large enough, so
    patience ends when so many evaluations together gained less. Raises InputError for a metric that was not measured,
    NumbersError for one that is not finite.
    """
    name = settings.metric_for_best_model
    value = _value(metrics, name, now.step)
    if now.best_value is None or gain(name, value, now.best_value) > 0:
        now.best_value, now.best_step = value, now.step
    gained = math.inf if now.judged_by is None else gain(name, value, now.judged_by)
    if gained > 0 and gained >= (settings.early_stop_threshold or 0.0):
        now.judged_by, now.without_better = value, 0
    else:
        now.without_better += 1


def _value(metrics: Mapping[str, float], name: str, step: int) -> float:
    if name not in metrics:
        raise InputError(f"train.metric_for_best_model is {name}, but the evaluation returns {', '.join(metrics)}")
    if not math.isfinite(metrics[name]):
        raise NumbersError(f"step {step}: the evaluation's {name} is {metrics[name]}; lower train.learning_rate")
    return metrics[name]
