"""The one loop's numbers. Names are those of the transformers Trainer where it has one. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class TrainSettings(Settings):
    """One of max_steps and num_train_epochs decides the length.

    head_learning_rate: for the classifier head, where it should differ. bf16: autocast; "auto" turns it on where the
    processor multiplies bf16 natively and a timed probe is faster. skip_bad_steps: steps whose loss or gradient is not
    finite are skipped and logged this many times, then the run stops. early_stop_patience: evaluations without a better
    `metric_for_best_model` before training ends. early_stop_threshold: by how much it must become better over that many
    evaluations, in its own unit (0.001 of accuracy is 0.1 points); by anything when absent. group_by_length: rows of
    like length share a batch.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 5e-5
    head_learning_rate: Annotated[float, Field(gt=0)] | None = None
    lr_scheduler_type: Literal["cosine", "linear", "constant"] = "linear"
    warmup_ratio: Fraction = 0.0
    max_steps: Positive | None = None
    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    per_device_train_batch_size: Positive = 32
    per_device_eval_batch_size: Positive = 64
    gradient_accumulation_steps: Positive = 1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    bf16: Literal["auto"] | bool = "auto"
    eval_steps: Positive | None = None
    save_steps: Positive | None = None
    save_total_limit: Positive = 2
    logging_steps: Positive = 10
    metric_for_best_model: str = "loss"
    early_stop_patience: Positive | None = None
    early_stop_threshold: Annotated[float, Field(gt=0)] | None = None
    skip_bad_steps: Annotated[int, Field(ge=0)] = 3
    group_by_length: bool = True
    dropout: Fraction | None = None

    @model_validator(mode="after")
    def one_length(self) -> "TrainSettings":
        """Two lengths contradict; none means nobody decided."""
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise ValueError("max_steps and num_train_epochs contradict each other: keep one of them")
        if self.early_stop_patience is not None and self.eval_steps is None:
            raise ValueError("early_stop_patience needs eval_steps: without evaluations nothing can be judged")
        if self.early_stop_threshold is not None and self.early_stop_patience is None:
            raise ValueError("early_stop_threshold needs early_stop_patience: over how many evaluations it is gained")
        return self


class HopSettings(Settings):
    """Whether a hop of a chain pays, as the ledger then says in words. Where it does not, later stages load the better
    of the two models, and a stage whose own hop is over this one is not trained.

    over: the earlier stage that this one is held against, by `metric_for_best_model` on the validation rows.
    least_gain: by how much this stage must be better, in the unit of that metric: 0.001 of accuracy is 0.1 points.
    """

    over: Annotated[str, Field(min_length=1)]
    least_gain: Annotated[float, Field(ge=0)] = 0.001


class AdaptiveSettings(Settings):
    """When the student's own text is learnt from: DistiLLM's scheduler (Ko et al. 2024, arXiv:2402.03898, section 3.2,
    with the numbers of its code). Its probability starts low, rises only when the validation loss rises, and fresh text
    is written for less and less of it; the rest comes out of a replay buffer.

    start: the probability at the first step. rise: added to it when the validation loss is at least `margin` nats above
    the reference, which then becomes that loss. capacity: rows that the replay buffer holds; the oldest leave first.
    """

    start: Fraction = 0.0
    rise: Annotated[float, Field(gt=0, le=1)] = 0.1
    margin: Annotated[float, Field(gt=0)] = 0.1
    capacity: Positive = 1000


class RolloutSettings(Settings):
    """Batches whose text the student wrote itself (on-policy). The teacher comments on them, labels they have none.

    lmbda: share of such batches, lambda of GKD (Agarwal et al. 2023, arXiv:2306.13649, algorithm 1): 0 is ordinary
    distillation, 1 is purely on-policy. adaptive: a scheduler in its place. temperature: of the sampling.
    max_new_tokens: after the prompt; a row ends earlier at an end token. prompt_tokens: for rows of text, which have no
    prompt: each is cut after so many tokens, and the student goes on from there.
    """

    lmbda: Fraction | None = None
    adaptive: AdaptiveSettings | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    max_new_tokens: Positive = 128
    prompt_tokens: Positive | None = None

    @model_validator(mode="after")
    def one_rule(self) -> "RolloutSettings":
        """Two rules contradict; none leaves open how often the student writes."""
        if self.lmbda is not None and self.adaptive is not None:
            raise ValueError(
                "lmbda and adaptive contradict each other: a fixed share, or a scheduler; keep one of them"
            )
        if self.lmbda is None and self.adaptive is None:
            raise ValueError("how often the student writes is not said: set lmbda (such as 0.5), or adaptive: {}")
        return self
