"""Last states and head give the model's own logits, in every architecture that has a linear head."""

import pytest
import torch

from potstill.core.errors import SignalError
from potstill.core.signal import OutputHead, Voice, Want
from potstill.students.taps import outputs
from potstill.teachers.head import logits_of
from potstill.teachers.local import LocalTeacher
from potstill.teachers.speaking import SpeakingTeacher, own_head, refuse_false_head
from tests.students import tiny
from tests.teachers.test_codec import batch_of


def speaker(kind):
    module = tiny.tiny(kind, "causal-lm").eval()
    voice = Voice("tiny", module.get_output_embeddings().weight.shape[0])
    live = LocalTeacher(lambda batch, want: outputs(module, batch, want), voice, module)
    return SpeakingTeacher(live, own_head(module))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "qwen3"])
def test_states_and_head_are_the_logits(kind):
    teacher, batch = speaker(kind), batch_of()
    read = batch.attention_BL
    said = teacher.signal(batch, Want(logits=False, headed=True)).logits
    own = teacher.signal(batch, Want()).logits.logits_BTV
    torch.testing.assert_close(logits_of(said.states_BTD, said.head)[read], own[read], atol=1e-5, rtol=1e-5)
    assert not said.head.weight_VD.requires_grad
    refuse_false_head(teacher, batch)


def test_a_scale_that_was_overlooked_is_found():
    teacher = speaker("llama")
    false = SpeakingTeacher(teacher.live, OutputHead(teacher.head.weight_VD, scale=1.05))
    with pytest.raises(SignalError, match="does not give its own logits"):
        refuse_false_head(false, batch_of())


def test_layers_come_beside_the_states():
    signal = speaker("llama").signal(batch_of(), Want(logits=False, headed=True, hidden_layers=(0, 2)))
    assert set(signal.hidden.layers) == {0, 2}


def test_a_model_without_a_linear_head():
    with pytest.raises(SignalError, match="no linear output layer"):
        own_head(torch.nn.Linear(2, 2))
