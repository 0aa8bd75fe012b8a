import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.protocols import Teacher
from potstill.core.signal import Attentions, HiddenStates, Outputs, Voice, Want
from potstill.teachers.local import LocalTeacher


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(4, 3)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, batch, want):
        states = torch.ones(*batch.tokens_BL.shape, 4)
        hidden = HiddenStates({0: states}) if want.hidden_layers else None
        attentions = Attentions({0: torch.ones(2, 1, 5, 5)}) if want.attention_layers else None
        return Outputs(self.drop(self.head(states)), hidden=hidden, attentions=attentions)


def test_it_says_what_the_model_says_without_gradient(rows):
    network = Network().eval()
    teacher = LocalTeacher(network, Voice("net", 3), network)
    signal = teacher.signal(rows(range(2), 5), Want())
    assert isinstance(teacher, Teacher)
    assert signal.voice == teacher.voice
    assert torch.equal(signal.logits.logits_BTV, network(rows(range(2), 5), Want()).logits_BTV)
    assert not signal.logits.logits_BTV.requires_grad
    assert signal.hidden is None


def test_it_hands_on_states_and_attentions_and_only_what_is_wanted(rows):
    network = Network().eval()
    want = Want(logits=False, hidden_layers=(0,), attention_layers=(0,))
    signal = LocalTeacher(network, Voice("net", 3), network).signal(rows(range(2), 5), want)
    assert signal.logits is None
    assert set(signal.hidden.layers) == set(signal.attentions.layers) == {0}


def test_autograd_can_keep_what_it_says(rows):
    """An inference tensor could not be saved for the student's backward pass."""
    network = Network().eval()
    logits = LocalTeacher(network, Voice("net", 3)).signal(rows(range(2), 5), Want()).logits.logits_BTV
    student = torch.randn(2, 5, 3, requires_grad=True)
    (student * logits).sum().backward()
    assert torch.equal(student.grad, logits)


@pytest.mark.parametrize("part", ["whole", "dropout"])
def test_a_teacher_with_live_dropout_is_an_error_of_the_program(rows, part):
    network = Network().eval()
    (network if part == "whole" else network.drop).train()
    with pytest.raises(AssertionError, match="evaluation mode"):
        LocalTeacher(network, Voice("net", 3), network).signal(rows(range(2), 5), Want())


def test_logits_as_wide_as_another_vocabulary_are_refused(rows):
    network = Network().eval()
    with pytest.raises(
        SignalError, match="teacher net has 8 entries in its vocabulary but its logits are 3 wide: load"
    ):
        LocalTeacher(network, Voice("net", 8), network).signal(rows(range(2), 5), Want())
