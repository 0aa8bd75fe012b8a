"""A real teacher through the codec and the store: as exact as docs/results/wire.md says."""

import pytest
import torch

from potstill.core.batch import Batch, next_token_targets
from potstill.core.signal import HeadedStates, Signal, Want
from potstill.students.load import load_model
from potstill.students.settings import ModelSettings
from potstill.students.taps import output_head, outputs
from potstill.teachers.codec import pack, unpack
from potstill.teachers.head import HeadShelf, pack_head
from potstill.teachers.int8 import channel_scales
from potstill.teachers.local import LocalTeacher
from potstill.teachers.packing import Packing
from potstill.teachers.store import SignalStore
from potstill.teachers.stored import StoredTeacher
from potstill.teachers.true_head import identity_of, refuse_false_head

CALIBRATION = "The harbour was quiet in the morning, and the boats that had come back in the night lay low with fish."
PASSAGES = (
    "Photosynthesis turns light into sugar. Plants take up water through their roots and carbon dioxide from the air.",
    "The capital of France is Paris, which lies on the river Seine.",
)


def batch_of(tokenizer, texts):
    rows = [tokenizer(text)["input_ids"] for text in texts]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    attention = torch.arange(longest) < torch.tensor([[len(row)] for row in rows])
    targets, weights = next_token_targets(tokens, attention)
    return Batch(tuple(texts), tokens, attention, targets, {"soft": weights, "hard": weights})


@pytest.fixture(scope="module")
def smollm2():
    """The speaking teacher, its identity and its head with scales from one other passage; and two passages."""
    loaded = load_model(
        ModelSettings(model_name_or_path="packaged:smollm2-135m-instruct"), task="causal-lm", labels=None
    )
    identity, module = identity_of(loaded), loaded.module
    speaker = LocalTeacher(lambda batch, want: outputs(module, batch, want), identity.voice, module)
    batch = batch_of(loaded.tokenizer, PASSAGES)
    refuse_false_head(speaker, batch)
    said = speaker.signal(batch_of(loaded.tokenizer, [CALIBRATION]), Want(logits=False, headed=True))
    return (
        speaker,
        identity,
        pack_head(output_head(module).detached(), identity, channel_scales(said.logits.states_BTD[0])),
        batch,
    )


def kl(batch, truth, signal):
    asked = batch.weights["soft"] != 0
    said = signal.logits
    found = said.head.logits(said.states_BTD[asked]) if isinstance(said, HeadedStates) else said.logits_BTV[asked]
    p, q = torch.log_softmax(truth[asked], -1), torch.log_softmax(found.float(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_its_forms_are_as_exact_as_measured(smollm2, tmp_path):
    speaker, identity, frame, batch = smollm2
    shelf = HeadShelf(tmp_path)
    head = shelf.get(shelf.put(frame))
    assert identity.norm == "LlamaRMSNorm(eps=1e-05)"
    assert head.head.weight_VD.shape == (49_152, 576)
    signal = speaker.signal(batch, Want(logits=False, headed=True))
    truth = speaker.signal(batch, Want()).logits.logits_BTV
    found = {}
    for form in ("hidden-fp32", "hidden-fp16", "hidden-bf16", "hidden-int8", "logits-bf16"):
        packing = Packing(form, identity, head)
        found[form] = kl(batch, truth, unpack(pack(signal, batch, packing), batch, packing))
    assert abs(found["hidden-fp32"]) < 1e-6
    assert found["hidden-fp16"] < 5e-6
    assert found["hidden-bf16"] < 1e-4
    assert found["hidden-int8"] < 3e-3
    assert found["hidden-bf16"] < found["logits-bf16"] / 4


def test_its_store_is_its_signal(smollm2, tmp_path):
    speaker, identity, frame, batch = smollm2
    shelf = HeadShelf(tmp_path)
    packing = Packing("hidden-int8", identity, shelf.get(shelf.put(frame)))
    recording = StoredTeacher(SignalStore(tmp_path, packing.as_meta()), packing, speaker)
    heard = recording.signal(batch, Want(logits=False, headed=True))
    recording.close()
    again = StoredTeacher(SignalStore(tmp_path, packing.as_meta()), packing).signal(batch, Want(headed=True))
    assert isinstance(heard, Signal)
    assert torch.equal(heard.logits.states_BTD, again.logits.states_BTD)
    assert heard.voice == again.voice == identity.voice
