"""Terms inside the models, each against a slow oracle in double precision, and the known answers of both papers."""

import dataclasses

import pytest
import torch
from torch import nn

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Objective
from potstill.core.signal import DenseLogits, HiddenStates, Outputs, Scores, Signal, Voice
from potstill.objectives.layers import LayerByLayer, Pairs, paired, shared_projection
from potstill.objectives.logits import Hinton
from potstill.objectives.settings import LayerSettings, ObjectiveSettings
from potstill.students.layouts import Dimensions

B, L, H, S, T, V = 3, 5, 2, 4, 6, 7
LENGTHS = (5, 2, 3)
PAIRS = Pairs(((1, 3), (2, 6)), ((0, 2), (1, 5)))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def settings(soft=0.0, hard=0.0, extra=None, **layers):
    return ObjectiveSettings(soft_weight=soft, hard_weight=hard, layers=layers, **(extra or {}))


class Two:
    """Student and teacher of different widths and depths on three rows, two of them padded."""

    def __init__(self, width=S, seed=0):
        self.states = {i: random(B, L, width, seed=seed + i).requires_grad_() for i in (0, 1, 2, -1)}
        self.scores = {i: random(B, H, L, L, seed=seed + 20 + i).requires_grad_() for i in (0, 1)}
        self.logits = random(B, L, V, seed=seed + 30).requires_grad_()
        self.teacher_states = {i: random(B, L, T, seed=40 + i) for i in (0, 3, 6, -1)}
        self.teacher_scores = {i: random(B, H, L, L, seed=60 + i) for i in (2, 5)}
        self.teacher_logits = random(B, L, V, seed=70)
        self.attention = torch.arange(L) < torch.tensor(LENGTHS).unsqueeze(1)

    def batch(self, rows=slice(None)):
        attention = self.attention[rows]
        targets = torch.zeros_like(attention).long()
        weights = {"soft": attention.float(), "hard": attention.float()}
        return Batch(tuple(map(str, range(len(targets)))), targets, attention, targets, weights)

    def signal(self, rows=slice(None)):
        return Signal(
            Voice("t", V),
            DenseLogits(self.teacher_logits[rows]),
            hidden=HiddenStates({i: one[rows] for i, one in self.teacher_states.items()}),
            scores=Scores({i: one[rows] for i, one in self.teacher_scores.items()}),
        )

    def outputs(self, rows=slice(None)):
        return Outputs(
            self.logits[rows],
            hidden=HiddenStates({i: one[rows] for i, one in self.states.items()}),
            scores=Scores({i: one[rows] for i, one in self.scores.items()}),
        )

    def loss(self, objective, rows=slice(None), totals=None):
        return objective.loss(self.batch(rows), self.signal(rows), self.outputs(rows), totals)

    @property
    def learning(self):
        return [*self.states.values(), *self.scores.values(), self.logits]


def projection(width=S):
    made = nn.Linear(width, T).double()
    with torch.no_grad():
        made.weight.copy_(random(T, width, seed=90))
        made.bias.copy_(random(T, seed=91))
    return made


def real(two):
    return [(row, position) for row, length in enumerate(LENGTHS) for position in range(length)]


def attention_oracle(two):
    value = 0.0
    for ours, theirs in PAIRS.blocks:
        found = [
            (two.scores[ours][row, h, i, j] - two.teacher_scores[theirs][row, h, i, j]) ** 2
            for row, length in enumerate(LENGTHS)
            for h in range(H)
            for i in range(length)
            for j in range(length)
        ]
        value += sum(found) / len(found)
    return value


def states_oracle(two, one, pairs):
    value = 0.0
    for ours, theirs in pairs:
        found = [
            ((one.weight @ two.states[ours][place] + one.bias - two.teacher_states[theirs][place]) ** 2).mean()
            for place in real(two)
        ]
        value += sum(found) / len(found)
    return value


def cosine_oracle(two):
    found = []
    for place in real(two):
        ours, theirs = two.states[-1][place], two.teacher_states[-1][place]
        found.append(1 - ours @ theirs / (ours @ ours).sqrt() / (theirs @ theirs).sqrt())
    return sum(found) / len(found)


CASES = {
    "attention": (S, lambda two, one: attention_oracle(two)),
    "hidden": (S, lambda two, one: states_oracle(two, one, PAIRS.states)),
    "embedding": (S, lambda two, one: states_oracle(two, one, [(0, 0)])),
    "cosine": (T, lambda two, one: cosine_oracle(two)),
}


@pytest.mark.parametrize("name", CASES)
def test_each_term_is_its_oracle_in_value_and_gradient(name):
    width, oracle = CASES[name]
    two, one = Two(width), projection()
    objective = LayerByLayer(settings(**{name: 0.7}), PAIRS, one if name in ("hidden", "embedding") else None)
    assert isinstance(objective, Objective)
    loss, wanted = two.loss(objective), 0.7 * oracle(two, one)
    torch.testing.assert_close(loss.total, wanted, rtol=1e-12, atol=0)
    assert loss.parts == {name: pytest.approx(float(wanted.detach()), rel=1e-12)}
    learning = [*two.learning, *one.parameters()]
    ours = torch.autograd.grad(loss.total, learning, allow_unused=True)
    theirs = torch.autograd.grad(wanted, learning, allow_unused=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-14)


def test_distilberts_triple_loss_is_five_two_one():
    """5 T^2 KL + 2 cross-entropy + 1 cosine, T = 2: the published code's weights, written out."""
    two = Two(T)
    chosen = settings(5.0, 2.0, {"temperature": 2.0}, cosine=1.0)
    loss = two.loss(LayerByLayer(chosen, Pairs((), ())))
    kl, ce = [], []
    for place in real(two):
        teacher, student = two.teacher_logits[place], two.logits[place]
        p, log_q = (teacher / 2).softmax(-1), (student / 2).log_softmax(-1)
        kl.append((p * (p.log() - log_q)).sum())
        ce.append(-student.log_softmax(-1)[0])
    wanted = 5 * 4 * sum(kl) / len(kl) + 2 * sum(ce) / len(ce) + cosine_oracle(two)
    torch.testing.assert_close(loss.total, wanted, rtol=1e-6, atol=0)
    assert set(loss.parts) == {"soft", "hard", "cosine"}
    assert sum(loss.parts.values()) == pytest.approx(float(loss.total.detach()))


def test_it_composes_with_any_divergence():
    two = Two()
    skew = {"divergence": "skew_kl", "alpha": 0.1}
    together = two.loss(LayerByLayer(settings(1.0, 0.0, skew, attention=2.0), PAIRS))
    answers = Hinton(ObjectiveSettings(**skew)).loss(two.batch(), two.signal(), two.outputs())
    torch.testing.assert_close(together.total, answers.total + 2.0 * attention_oracle(two), rtol=1e-6, atol=0)


def test_equal_models_with_the_identity_have_no_loss():
    """Every term is zero where the student is the teacher."""
    two = Two(T)
    same = Outputs(two.teacher_logits, hidden=two.signal().hidden, scores=two.signal().scores)
    pairs = Pairs(((3, 3), (6, 6)), ((2, 2), (5, 5)))
    one = shared_projection(Dimensions(6, T, H), Dimensions(6, T, H), 0).double()
    chosen = settings(1.0, attention=1.0, hidden=1.0, embedding=1.0, cosine=1.0)
    loss = LayerByLayer(chosen, pairs, one).loss(two.batch(), two.signal(), same)
    assert set(loss.parts) == {"soft", "attention", "hidden", "embedding", "cosine"}
    assert all(value == pytest.approx(0.0, abs=1e-12) for value in loss.parts.values())


def test_scores_after_the_softmax_would_be_another_loss():
    """Two rows of scores that differ by a constant have one softmax, and are apart before it."""
    two = Two()
    shifted = Scores({0: two.teacher_scores[2] + 1.5, 1: two.teacher_scores[5] + 1.5})
    moved = dataclasses.replace(two.outputs(), scores=shifted)
    loss = LayerByLayer(settings(attention=1.0), PAIRS).loss(two.batch(), two.signal(), moved)
    assert float(loss.total) == pytest.approx(2 * 1.5**2)
    for ours, theirs in zip(shifted.layers.values(), two.teacher_scores.values(), strict=True):
        torch.testing.assert_close(ours.softmax(-1), theirs.softmax(-1))


def test_opposite_directions_cost_two_and_length_costs_nothing():
    two = Two(T)
    for factor, wanted in ((3.0, 0.0), (-1.0, 2.0)):
        outputs = dataclasses.replace(two.outputs(), hidden=HiddenStates({-1: factor * two.teacher_states[-1]}))
        loss = LayerByLayer(settings(cosine=1.0), Pairs((), ())).loss(two.batch(), two.signal(), outputs)
        assert float(loss.total) == pytest.approx(wanted, abs=1e-12)


def everything(width=T):
    return settings(1.0, 1.0, attention=1.0, hidden=1.0, embedding=1.0, **({"cosine": 1.0} if width == T else {}))


def test_what_stands_in_padding_changes_nothing():
    """Neither a value nor NaN, nor how far the rows are padded."""
    two, other, one = Two(T), Two(T), projection(T)
    for tensors in (other.states, other.teacher_states):
        for tensor in tensors.values():
            tensor.data[~other.attention] = float("nan")
    pad_BLL = ~(other.attention.unsqueeze(1) & other.attention.unsqueeze(2))
    for tensor in (*other.scores.values(), *other.teacher_scores.values()):
        tensor.data.masked_fill_(pad_BLL.unsqueeze(1), -1e4)
    first, second = (case.loss(LayerByLayer(everything(), PAIRS, one)) for case in (two, other))
    torch.testing.assert_close(first.total, second.total)
    second.total.backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in other.learning)


def test_accumulation_changes_nothing():
    two, one = Two(T), projection(T)
    objective = LayerByLayer(everything(), PAIRS, one)
    learning = [*two.learning, *one.parameters()]
    whole = torch.autograd.grad(two.loss(objective).total, learning)
    totals = objective.counts(two.batch())
    assert totals["tokens"] == sum(LENGTHS)
    assert totals["pairs"] == sum(length**2 for length in LENGTHS)
    pieces = [two.loss(objective, slice(i, i + 1), totals) for i in range(B)]
    assert sum(float(piece.total.detach()) for piece in pieces) == pytest.approx(
        float(two.loss(objective).total.detach())
    )
    cut = torch.autograd.grad(sum(piece.total for piece in pieces), learning)
    for ours, theirs in zip(cut, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_rows_that_weigh_nothing_add_nothing_and_stay_attached():
    """A rank that is left without a row takes part with one whose weights are zero."""
    two = Two()
    batch = two.batch()
    none = dataclasses.replace(batch, weights={name: torch.zeros(B, L) for name in batch.weights})
    objective = LayerByLayer(settings(attention=1.0), PAIRS)
    loss = objective.loss(none, two.signal(), two.outputs(), {"tokens": 9.0, "pairs": 9.0})
    assert float(loss.total.detach()) == 0.0
    loss.total.backward()
    assert objective.counts(none) == {"tokens": 0.0, "pairs": 0.0}


def test_each_side_is_asked_for_its_own_layers():
    want = LayerByLayer(everything(), PAIRS, projection(T)).want()
    assert (want.hidden_layers, want.score_layers) == ((0, 3, 6, -1), (2, 5))
    assert (want.of_student.hidden_layers, want.of_student.score_layers) == ((0, 1, 2, -1), (0, 1))
    assert want.logits
    alone = LayerByLayer(settings(attention=1.0), Pairs((), PAIRS.blocks)).want()
    assert (alone.logits, alone.teacher, alone.of_student.hidden_layers) == (False, True, ())
    labels = LayerByLayer(settings(0.0, 1.0, attention=1.0), Pairs((), PAIRS.blocks)).want()
    assert labels.teacher


BERT, TINYBERT = Dimensions(12, 768, 12), Dimensions(4, 312, 12)


def test_tinyberts_map_and_projection():
    """States 3, 6, 9, 12 and the attention of blocks 2, 5, 8, 11; 240,384 weights of the map, its bias included."""
    layers = LayerSettings(attention=1, hidden=1, embedding=1, projection={})
    assert paired(layers, TINYBERT, BERT) == Pairs(((1, 3), (2, 6), (3, 9), (4, 12)), ((0, 2), (1, 5), (2, 8), (3, 11)))
    made = shared_projection(TINYBERT, BERT, 0)
    assert sum(weight.numel() for weight in made.parameters()) == 240_384
    assert float(made.weight.std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(made.weight, shared_projection(TINYBERT, BERT, 0).weight)
    assert not torch.equal(made.weight, shared_projection(TINYBERT, BERT, 1).weight)


def test_an_explicit_map():
    assert paired(LayerSettings(hidden=1, map=(1, 5), projection={}), Dimensions(2, 8, 2), BERT).states == (
        (1, 1),
        (2, 5),
    )


def test_directions_need_no_map():
    """A student that is deeper than its teacher has last states all the same."""
    assert paired(LayerSettings(cosine=1), Dimensions(13, 768, 8), BERT) == Pairs((), ())


@pytest.mark.parametrize(
    ("layers", "student", "words"),
    [
        ({"attention": 1, "map": (3, 6, 9)}, TINYBERT, "map names 3 teacher states and the student has 4"),
        ({"attention": 1, "map": (3, 6, 9, 13)}, TINYBERT, "state 13 is out of range: .* 1 to 12"),
        ({"attention": 1, "map": (3, 6, 6, 12)}, TINYBERT, "6 comes after 6"),
        ({"attention": 1, "map": (3, 9, 6, 12)}, TINYBERT, "6 comes after 9"),
        ({"attention": 1}, Dimensions(13, 768, 12), "13 blocks cannot be paired with a teacher of 12"),
        ({"attention": 1}, Dimensions(4, 312, 6), "the student has 6 and the teacher 12"),
        ({"cosine": 1}, TINYBERT, "312 entries and the teacher's 768: set cosine to 0"),
        ({"hidden": 1}, TINYBERT, "312 entries and the teacher's 768: set objective.layers.projection"),
        ({"embedding": 1}, TINYBERT, "set objective.layers.projection"),
    ],
)
def test_what_cannot_be_paired_is_refused_with_both_values(layers, student, words):
    with pytest.raises(SignalError, match=words):
        paired(LayerSettings(**layers), student, BERT)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden": HiddenStates({})}, "teacher t sent no hidden states of layer 3"),
        ({"scores": None}, "teacher t sent no attention scores of layer 2"),
    ],
)
def test_a_teacher_that_leaves_a_layer_out(change, words):
    two = Two()
    signal = dataclasses.replace(two.signal(), **change)
    name = next(iter(change)).replace("scores", "attention")
    objective = LayerByLayer(settings(**{name: 1.0}), PAIRS, projection())
    with pytest.raises(SignalError, match=words):
        objective.loss(two.batch(), signal, two.outputs())


def test_heads_and_positions_must_agree():
    two = Two()
    fewer = dataclasses.replace(two.outputs(), scores=Scores({i: one[:, :1] for i, one in two.scores.items()}))
    with pytest.raises(SignalError, match=r"\[3, 1, 5, 5\] and those of layer 2 .*\[3, 2, 5, 5\]"):
        LayerByLayer(settings(attention=1.0), PAIRS).loss(two.batch(), two.signal(), fewer)
    with pytest.raises(SignalError, match="no teacher"):
        LayerByLayer(settings(attention=1.0), PAIRS).loss(two.batch(), None, two.outputs())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": {}}, "are all 0"),
        ({"layers": {"cosine": 1, "map": [1]}}, "map has no use"),
        ({"layers": {"attention": 1, "projection": {}}}, "projection has no use"),
        ({"layers": {"cosine": 1}, "fused": True}, "layers goes with the logits .* and fused"),
        ({"layers": {"cosine": 1}, "projection": {}}, "layers goes with the logits .* and projection"),
        ({"soft_weight": 0}, "nothing would be learnt"),
    ],
)
def test_settings_that_contradict_each_other(values, words):
    with pytest.raises(ValueError, match=words):
        ObjectiveSettings(**values)
