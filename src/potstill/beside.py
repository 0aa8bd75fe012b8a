"""A teacher elsewhere on the test rows: how much of the student's agreement with it its signals show, and what not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from jaxtyping import Int
from torch import Tensor

from potstill import assemble
from potstill.bench import Bench
from potstill.core.batch import Batch
from potstill.core.errors import InputError, TeacherError
from potstill.core.outcome import Finding
from potstill.core.protocols import Teacher
from potstill.core.signal import DenseLogits, Outputs, SparseLogprobs, Want
from potstill.data.prepare import Prepared
from potstill.teachers.forms import FORMS, Form
from potstill.teachers.remote import RemoteTeacher
from potstill.train.ranks import Alone

TOP1, KL = "agreement.top1", "agreement.kl"


@dataclass(slots=True)
class Beside:
    """teacher: who is heard, None where nobody can be. form: in which its signals come. entries: of its vocabulary.
    lacking: measure -> why it cannot be taken."""

    teacher: Teacher | None = None
    form: Form | None = None
    want: Want = field(default_factory=Want)
    entries: int = 0
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether whole distributions are heard."""
        return self.teacher is not None and KL not in self.lacking

    def nothing(self, reason: str) -> None:
        """Nobody is heard from now on."""
        self.teacher = None
        self.lacking |= dict.fromkeys((TOP1, KL), reason)

    def forward(self, batch: Batch, want: Want) -> Outputs:
        """The teacher as a model whose logits are asked for; zeros where it was not asked."""
        assert self.teacher is not None, "somebody is heard"
        said = self.teacher.signal(batch, self.want).logits
        assert isinstance(said, DenseLogits), "whole logits were wanted"
        return Outputs(said.logits_BTV)

    def choices(self, batch: Batch) -> Int[Tensor, "B T"]:
        """Its likeliest entry at each position; entries come sorted."""
        assert self.teacher is not None, "somebody is heard"
        said = self.teacher.signal(batch, self.want).logits
        assert isinstance(said, SparseLogprobs), "top entries were wanted"
        return said.indices_BTK[..., 0]

    def told(self, findings: Sequence[Finding]) -> list[Finding]:
        """The findings with the form in which agreement was heard, and one more that says what was not measured."""
        found = [
            dataclasses.replace(one, evidence={**one.evidence, "signals": self.form}) if one.name in (TOP1, KL) else one
            for one in findings
        ]
        if self.lacking:
            reason = "; ".join(dict.fromkeys(self.lacking.values()))
            evidence = {"unit": "measures", "measures": sorted(self.lacking), "reason": reason}
            found.append(Finding("agreement.unmeasured", float(len(self.lacking)), "student", evidence=evidence))
        return found


def beside(bench: Bench, prepared: Prepared) -> Beside | None:
    """The last stage's teacher if it is served elsewhere; None where it is not. Out of its store where there is one,
    which keeps what it says of the test rows too. Who does not answer now ends no run that has been trained."""
    settings, found = bench.recipe.teacher, Beside()
    if settings is None or not settings.urls or prepared.test is None:
        return None
    form = settings.store.form if settings.store else settings.form
    if settings.models:
        found.nothing(f"the student had {len(settings.models) + 1} teachers, and agreement is with one")
        return found
    if form is not None and FORMS[form].says == "layers":
        found.nothing(f"the teacher elsewhere sends `{form}`, which holds no distribution")
        return found
    if form == "top-k":
        objective = bench.recipe.objective
        found.want = Want(top_k=objective.top_k, temperature=objective.temperature)
        found.lacking[KL] = f"the teacher elsewhere sends `top-k`: its {objective.top_k} likeliest entries and no more"
    alone = dataclasses.replace(bench, ranks=Alone())  # the others wait: nothing can be agreed on with them
    try:
        place = bench.folder.stage(bench.recipe.final.name)
        teacher = assemble.elsewhere(alone, bench.recipe.final, prepared.test.encoded, prepared, place)
        found.form = teacher.packing(found.want).form if isinstance(teacher, RemoteTeacher) else form
    except (InputError, TeacherError) as error:
        found.nothing(f"the teacher elsewhere was not heard when this was measured ({error})")
        return found
    found.teacher, found.entries = teacher, teacher.voice.vocabulary_size
    return found
