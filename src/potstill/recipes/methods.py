"""The methods: a literal table of name, paper, how a recipe asks for it, and where it is of no use by its nature.

What we measured of each is a sentence of docs/results/effects.yaml; docs/methods.md is made of both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from potstill.config import Recipe, StageSettings
from potstill.divergences.catalogue import DIVERGENCES
from potstill.recipe_yaml import load_recipe
from potstill.recipes.catalogue import RECIPES


class Method(NamedTuple):
    """group: the heading it stands under. title: what it does. paper: where it is from; "ours" where no paper is.
    setting: the path of what turns it on, within a training. value: what it must be; None: anything but the default
    that leaves it off. asked: as it is written. limit: where it does not help, by what it is."""

    group: str
    title: str
    paper: str
    setting: str
    value: str | None
    asked: str
    limit: str


_TINYBERT = "Jiao et al. 2020, TinyBERT, arXiv:1909.10351"
_DISTILBERT = "Sanh et al. 2019, DistilBERT, arXiv:1910.01108"
_LAYERS = "a teacher that is elsewhere, recorded, or has another tokenizer"

# Of each divergence: where it is of no use.
_DIVERGENCE_LIMITS: Mapping[str, str] = {
    "forward_kl": "a student much smaller than its teacher: it must cover what it cannot hold, and grows vague",
    "reverse_kl": "where several answers matter: it keeps to the likeliest; far from the teacher it is unbounded",
    "jensen_shannon": "beta near 0 or 1: its scale vanishes there",
    "skew_kl": "alpha near 1: the mixture is then the teacher itself, and little is taught",
    "skew_reverse_kl": "alpha near 1: the mixture is then the student itself, and little is taught",
    "bidirectional": "lam 0.5: both directions cancel, and the value is 0 for any student",
    "total_variation": "a student far from its teacher: its gradient vanishes where the student gives no mass",
    "adaptive_kl": "few entries, as in a classifier: head and tail of the distribution are then hardly two things",
}

METHODS: Mapping[str, Method] = {
    **{
        name: Method(
            "Divergences", row.name, row.paper, "objective.divergence", name, f"divergence: {name}",
            _DIVERGENCE_LIMITS.get(name, ""),
        )
        for name, row in DIVERGENCES.items()
    },
    "top_k": Method(
        "Divergences", "only the teacher's likeliest entries", "ours", "objective.top_k", None, "top_k: 20",
        "high temperatures, and teachers that are unsure: what is cut off is then most of the distribution",
    ),
    "attention": Method(
        "Layer losses", "attention scores, before the softmax", f"{_TINYBERT}, equation 7",
        "objective.layers.attention", None, "layers: {attention: 1}",
        f"decoders; another number of heads; {_LAYERS}",
    ),
    "hidden": Method(
        "Layer losses", "states after each block", f"{_TINYBERT}, equation 8", "objective.layers.hidden", None,
        "layers: {hidden: 1}", f"another width without a projection; {_LAYERS}",
    ),
    "embedding": Method(
        "Layer losses", "states before the first block", f"{_TINYBERT}, equation 9", "objective.layers.embedding", None,
        "layers: {embedding: 1}", f"a student that has the teacher's own table; {_LAYERS}",
    ),
    "cosine": Method(
        "Layer losses", "the direction of the last states", f"{_DISTILBERT}, section 2", "objective.layers.cosine",
        None, "layers: {cosine: 1}", f"another width; {_LAYERS}",
    ),
    "uniform": Method(
        "Layer losses", "the uniform layer map", f"{_TINYBERT}, section 3.1", "objective.layers.map", "uniform",
        "layers: {map: uniform}", "a student deeper than its teacher; blocks copied from elsewhere than the map says",
    ),
    "layer_projection": Method(
        "Layer losses", "one map from the student's width to the teacher's", f"{_TINYBERT}, published code",
        "objective.layers.projection", None, "layers: {projection: {}}",
        "equal widths, where it begins as the identity and is only one more thing to learn",
    ),
    "lmbda": Method(
        "The student's own text", "a fixed share of its own text", "Agarwal et al. 2023, GKD, arXiv:2306.13649",
        "rollout.lmbda", None, "rollout: {lmbda: 0.5}",
        "a student that writes nothing worth a comment yet; classifiers; recorded teachers",
    ),
    "adaptive": Method(
        "The student's own text", "a share that follows the validation loss, and a replay buffer",
        "Ko et al. 2024, DistiLLM, arXiv:2402.03898, section 3.2", "rollout.adaptive", None, "rollout: {adaptive: {}}",
        "short trainings, whose validation loss only falls: the student then never writes",
    ),
    "difficulty": Method(
        "Which rows, and when", "rows that the teacher knows and the student does not",
        "He et al. 2025, DA-KD, ICML 2025, PMLR 267:22379-22391", "order.difficulty", None,
        "order: {difficulty: {passes: 10}}",
        "a recorded teacher no larger than a few students: reading all rows costs what shorter passes save",
    ),
    "mastery": Method(
        "Which rows, and when", "skills that open when those they build on are mastered",
        "Pedagogically-Inspired Data Synthesis, ICLR 2026, arXiv:2602.12172", "order.mastery", None,
        "order: {mastery: {slice_by: skill, prerequisites: {b: [a]}}}",
        "rows without a known skill; skills that do not build on each other",
    ),
    "zone": Method(
        "Which rows, and when", "skills neither mastered nor out of reach",
        "Pedagogically-Inspired Data Synthesis, ICLR 2026, arXiv:2602.12172", "order.zone", None,
        "order: {zone: {slice_by: skill}}", "rows without a known skill; skills that are learnt at one pace",
    ),
    "augment": Method(
        "Which rows, and when", "more rows: words exchanged for words that would fit",
        "Jiao et al. 2020, TinyBERT, arXiv:1909.10351, section 3.2", "augment", None,
        "augment: {model_name_or_path: stage:speaker}", "plenty of unlabelled rows; text whose single words decide",
    ),
    "layers": Method(
        "Students", "some of the teacher's blocks, copied",
        f"{_DISTILBERT}, section 3; Gromov et al. 2024, arXiv:2403.17887",
        "student.layers", None, "student: {layers: [0, 2, 5]}", "a student of another width",
    ),
    "every": Method(
        "Students", "every k-th block, copied", f"{_DISTILBERT}, section 3", "student.every", None,
        "student: {every: 2}",
        "decoders, whose blocks differ in what they are worth: choose them by their effect, and name them in `layers`",
    ),
    "size": Method(
        "Students", "a fresh narrower model", f"{_TINYBERT}, section 4", "student.size", None,
        "student: {size: {hidden_size: 312, …}}", "little data: nothing is inherited",
    ),
    "vocabulary_size": Method(
        "Students", "a trimmed vocabulary", "ours", "student.vocabulary_size", None, "student: {vocabulary_size: 9000}",
        "text unlike the training rows: rare words are spelt with more pieces",
    ),
    "intermediate_size": Method(
        "Students", "feed-forward neurons with the largest weights", "ours", "student.intermediate_size", None,
        "student: {intermediate_size: 768}", "where memory and not time is short: tables stay as large",
    ),
    "architecture": Method(
        "Students", "a BERT rebuilt as a DistilBERT", _DISTILBERT, "student.architecture", "distilbert",
        "student: {architecture: distilbert}", "rows of two texts: token types are gone; models other than BERT",
    ),
    "probe": Method(
        "Students", "a linear probe before fine-tuning", "ours", "student.head", "probe", "student: {head: probe}",
        "tasks other than classification; rows without labels",
    ),
    "padded": Method(
        "Vocabularies", "a longer table, one tokenizer", "ours", "teacher.vocabulary", "padded",
        "teacher: {vocabulary: padded}", "a table whose rows beyond the tokenizer hold probability",
    ),
    "aligned": Method(
        "Vocabularies", "another tokenizer, where decoded texts agree", "Zhang et al. 2025, arXiv:2504.11426",
        "teacher.vocabulary", "aligned", "teacher: {vocabulary: aligned}",
        "tokenizers that share few tokens; text that the student writes itself; layer losses",
    ),
    "projection": Method(
        "Vocabularies", "last states in both models' output spaces", "Zhang et al. 2024, DSKD, arXiv:2406.17328",
        "objective.projection", None, "objective: {projection: {}}", "classifiers; several teachers; another tokenizer",
    ),
    "ensemble": Method(
        "Teachers", "the mean of several teachers", "Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 5",
        "teacher.models", None, "teacher: {models: [{…}, {…}]}",
        "teachers of which one is far worse (`drop_above` leaves it out); layer losses and projections",
    ),
    "route_by": Method(
        "Teachers", "each row names its teacher", "ours", "teacher.route_by", None, "teacher: {route_by: area}",
        "rows whose origin is not known; packed rows",
    ),
    "tutor": Method(
        "Teachers", "a tutor of a size between teacher and student",
        "Mirzadeh et al. 2020, Improved Knowledge Distillation via Teacher Assistant, arXiv:1902.03393",
        "teacher.models", None, "teacher: {models: [{model_name_or_path: stage:tutor}]}, after a stage `tutor`",
        "a student near its teacher's size: the tutor's training is paid for and closes no gap",
    ),
    "choose": Method(
        "Teachers", "each example taught by the teacher, its tutor or the label",
        "TEID, of which only an abstract is public; the choice is ours",
        "teacher.choose", None, "teacher: {choose: closer}, with a teacher and a tutor in models",
        "rows without labels, where nobody can be found wrong",
    ),
    "prune": Method(
        "Smaller models", "units taken out by scores, before the training", "Molchanov et al. 2017, arXiv:1611.06440",
        "compress.prune", None, "compress: {prune: {remove: {neurons: 0.5}}}",
        "heads of architectures whose config has no head size of its own",
    ),
    "movement": Method(
        "Smaller models", "units that the student can do without, found while it learns",
        "Sanh et al. 2020, Movement pruning, arXiv:2005.07683", "compress.movement", None, "compress: {movement: {}}",
        "a body that is frozen; a training of so few steps that nothing moves",
    ),
    "quantise": Method(
        "Smaller models", "training on the integers that leave", "Esser et al. 2020, LSQ, arXiv:1902.08153",
        "compress.quantise", None, "compress: {quantise: {}}", "8 bits of a model that rounding alone leaves as it is",
    ),
}  # fmt: skip


def recipes_with(name: str) -> list[str]:
    """The shipped recipes in which a training asks for the method, in the order of their table."""
    return [recipe for recipe in RECIPES if uses(load_recipe(recipe), name)]


def uses(recipe: Recipe, name: str) -> bool:
    """Whether any training of a recipe asks for a method."""
    stages = [*recipe.stages, recipe.final]
    if name == "tutor":
        return any(_has_tutor(stage, stages) for stage in stages)
    return any(_asked(stage, name) for stage in stages)


def _asked(stage: StageSettings, name: str) -> bool:
    method = METHODS[name]
    found: Any = stage
    for part in method.setting.split("."):
        found = getattr(found, part, None)
    if name == "ensemble":
        return len(found or ()) > 1
    if method.group == "Divergences" and stage.objective.soft_weight == 0:
        return False
    layers = stage.objective.layers
    if name == "uniform" and (layers is None or not (layers.attention or layers.hidden)):
        return False
    return found == method.value if method.value is not None else bool(found)


def _has_tutor(stage: StageSettings, stages: Sequence[StageSettings]) -> bool:
    """Whether a teacher of the stage was itself taught in the recipe."""
    taught = {f"stage:{one.name}" for one in stages if one.teacher is not None}
    return stage.teacher is not None and any(one.model_name_or_path in taught for one in stage.teacher.models)
