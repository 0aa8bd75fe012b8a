"""Last states and head give the model's own logits, in every architecture that has a linear head."""

import pytest
import torch
from torch import nn

from potstill.core.errors import SignalError
from potstill.core.signal import HeadedStates, OutputHead, Outputs, Voice, Want
from potstill.students.taps import output_head, outputs
from potstill.teachers.local import LocalTeacher
from potstill.teachers.true_head import refuse_false_head
from tests.students import tiny
from tests.teachers.test_codec import batch_of


def speaker(kind):
    module = tiny.tiny(kind, "causal-lm").eval()
    voice = Voice("tiny", module.get_output_embeddings().weight.shape[0])
    return LocalTeacher(lambda batch, want: outputs(module, batch, want), voice, module)


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "gpt2", "qwen3"])
def test_states_and_head_are_the_logits(kind):
    teacher, batch = speaker(kind), batch_of()
    read = batch.attention_BL
    said = teacher.signal(batch, Want(logits=False, headed=True)).logits
    own = teacher.signal(batch, Want()).logits.logits_BTV
    torch.testing.assert_close(said.head.logits(said.states_BTD)[read], own[read], atol=1e-5, rtol=1e-5)
    assert not said.head.weight_VD.requires_grad
    assert not said.states_BTD.requires_grad
    refuse_false_head(teacher, batch)


def test_a_scale_that_was_overlooked_is_found():
    teacher = speaker("llama")

    def false(batch, want):
        found = outputs(teacher.module, batch, want)
        if found.headed is None:
            return found
        return Outputs(
            None, headed=HeadedStates(found.headed.states_BTD, OutputHead(found.headed.head.weight_VD, scale=1.05))
        )

    with pytest.raises(SignalError, match="does not give its own logits"):
        refuse_false_head(LocalTeacher(false, teacher.voice, teacher.module), batch_of())


def test_layers_come_beside_the_states_in_one_pass():
    teacher, passes = speaker("llama"), []
    teacher.module.base_model.register_forward_hook(lambda *_: passes.append(1))
    signal = teacher.signal(batch_of(), Want(logits=False, headed=True, hidden_layers=(0, 2)))
    assert set(signal.hidden.layers) == {0, 2}
    assert len(passes) == 1


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert"])
def test_an_encoders_vocabulary_is_not_one_linear_of_its_last_states(kind):
    with pytest.raises(SignalError, match="not one linear of its last states"):
        output_head(tiny.tiny(kind, "masked-lm"))


def test_a_model_without_a_linear_head():
    with pytest.raises(SignalError, match="not one linear of its last states"):
        output_head(nn.Linear(2, 2))
