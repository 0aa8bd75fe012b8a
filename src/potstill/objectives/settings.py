"""How far the student is from the teacher and from the labels, as numbers and names. No torch."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from potstill.core.settings import Settings

DivergenceName = Literal[
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "skew_kl",
    "skew_reverse_kl",
    "bidirectional",
    "total_variation",
    "adaptive_kl",
]
_PARAMETER = {"jensen_shannon": "beta", "skew_kl": "alpha", "skew_reverse_kl": "alpha", "bidirectional": "lam"}


class ProjectionSettings(Settings):
    """Learned linear maps between the last states of student and teacher, for models of different widths (DSKD, Zhang
    et al. 2024, arXiv:2406.17328). They start by pseudo-inverse of the output heads and are no part of the student.

    learning_rate: of the projections, before the schedule. gradient_limit: each entry of their gradient is clamped to
    it; they stay out of the norm that train.max_grad_norm bounds.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    gradient_limit: Annotated[float, Field(gt=0)] = 1.0


class SharedProjectionSettings(Settings):
    """One learned linear map with a bias, from the student's states to the teacher's, for all layers (TinyBERT). It
    begins as BERT's fresh weights do, as the identity where the widths are equal, and is no part of the student.

    learning_rate: of the map, before the schedule. gradient_limit: each entry of its gradient is clamped to it; it
    stays out of the norm that train.max_grad_norm bounds.
    """

    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    gradient_limit: Annotated[float, Field(gt=0)] = 1.0


class LayerSettings(Settings):
    """What is compared between the layers of student and teacher, each with its weight, beside soft_weight and
    hard_weight (which may then both be 0).

    attention: squared differences of attention scores before the softmax; hidden: of the states after each block;
    embedding: of the states before the first (TinyBERT, Jiao et al. 2020, arXiv:1909.10351, equations 7 to 9). cosine:
    1 - cos of the last states (DistilBERT, Sanh et al. 2019, arXiv:1910.01108, section 2). map: which teacher state
    each student block is compared with: `uniform` is g(m) = m N / M, or one state for each block, where i is the output
    of the i-th. projection: one linear map for all states, from the student's width to the teacher's.
    """

    attention: Annotated[float, Field(ge=0)] = 0.0
    hidden: Annotated[float, Field(ge=0)] = 0.0
    embedding: Annotated[float, Field(ge=0)] = 0.0
    cosine: Annotated[float, Field(ge=0)] = 0.0
    map: Literal["uniform"] | tuple[Annotated[int, Field(ge=1)], ...] = "uniform"
    projection: SharedProjectionSettings | None = None

    @model_validator(mode="after")
    def something_is_compared(self) -> "LayerSettings":
        """A map or a projection that nothing reads would be accepted and ignored."""
        if not (self.attention or self.hidden or self.embedding or self.cosine):
            raise ValueError("attention, hidden, embedding and cosine are all 0: raise one, or remove layers")
        if self.map != "uniform" and not (self.attention or self.hidden):
            raise ValueError("map has no use while attention and hidden are 0: remove it, or raise one of them")
        if self.projection is not None and not (self.hidden or self.embedding):
            raise ValueError(
                "projection has no use while hidden and embedding are 0: remove it, or raise one of them "
                "(cosine compares directions in one space)"
            )
        return self


class ObjectiveSettings(Settings):
    """soft_weight * T^2 * divergence(teacher^T, student^T) + hard_weight * cross-entropy(label, student).

    Hinton, Vinyals and Dean 2015, section 2. top_k: learn from the k most likely entries only; missing_mass then says
    what becomes of the rest: one `tail` bucket, or `renormalise` the kept entries. projection: compare last states in
    both models' output spaces instead of logits alone; soft_weight then weighs the three parts of that. fused: the same
    value and gradients from last states, without the logits of either side: less memory, and faster where the
    processor has AVX-512 (language models with one teacher). layers: what is compared inside the two models as well.
    """

    divergence: DivergenceName = "forward_kl"
    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    beta: Annotated[float, Field(ge=0, le=1)] | None = None
    lam: Annotated[float, Field(ge=0, le=1)] | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    soft_weight: Annotated[float, Field(ge=0)] = 1.0
    hard_weight: Annotated[float, Field(ge=0)] = 0.0
    top_k: Annotated[int, Field(gt=0)] | None = None
    missing_mass: Literal["tail", "renormalise"] = "tail"
    projection: ProjectionSettings | None = None
    fused: bool = False
    layers: LayerSettings | None = None

    @property
    def answers(self) -> bool:
        """Whether the student's own output is taught, and not its layers alone."""
        return self.soft_weight > 0 or self.hard_weight > 0

    @property
    def parameters(self) -> dict[str, float]:
        """The keyword arguments of the divergence that the recipe set."""
        values = {"alpha": self.alpha, "beta": self.beta, "lam": self.lam}
        return {name: value for name, value in values.items() if value is not None}

    @model_validator(mode="after")
    def every_setting_is_used(self) -> "ObjectiveSettings":
        """A parameter that the chosen divergence does not have would be accepted and ignored."""
        wanted = _PARAMETER.get(self.divergence)
        for name in self.parameters:
            if name != wanted:
                raise ValueError(
                    f"{name} is not a parameter of {self.divergence}"
                    + (f", which takes {wanted}" if wanted else ", which takes none")
                )
        if self.projection is not None and self.top_k is not None:
            raise ValueError("projection reads the teacher's states and top_k cuts its logits: keep one of them")
        for name, other in (("projection", self.projection), ("top_k", self.top_k)):
            if self.fused and other is not None:
                raise ValueError(
                    f"fused compares whole distributions in one space and {name} does not: keep one of them"
                )
        for name, other in (("projection", self.projection), ("fused", self.fused)):
            if self.layers is not None and other:
                raise ValueError(
                    f"layers goes with the logits of both models and {name} does without: keep one of them"
                )
        if not self.answers and self.layers is None:
            raise ValueError("soft_weight and hard_weight are both 0: nothing would be learnt")
        return self
