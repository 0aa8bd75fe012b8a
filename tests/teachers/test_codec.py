"""What is packed comes back, exactly or as near as its form promises; nothing else passes."""

import dataclasses
import functools
import math

import pytest
import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.signal import (
    Attentions,
    DenseLogits,
    HeadedStates,
    HiddenStates,
    OutputHead,
    Signal,
    SparseLogprobs,
    Voice,
)
from potstill.divergences.sparse import top_k
from potstill.teachers.codec import pack, rows_of, unpack, unsound
from potstill.teachers.forms import FORMS
from potstill.teachers.head import pack_head, unpack_head
from potstill.teachers.identity import Identity
from potstill.teachers.int8 import channel_scales
from potstill.teachers.packing import Packing, row_keys
from potstill.teachers.wire import Frame, decode, encode, frame_bytes

V, D, H, K = 50, 16, 2, 6
IDENTITY = Identity("w" * 64, "t" * 64, V, "RMSNorm(eps=1e-05)", scale=0.5, softcap=30.0)
PACKINGS = [*FORMS]


def batch_of(lengths=(5, 3, 1), prompt=1, seed=0):
    """Rows padded on the right; the first `prompt` positions and the last one have no weight."""
    draw = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    attention = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    places = torch.arange(longest)
    weights = ((places >= prompt) & (places < torch.tensor(lengths).unsqueeze(1) - 1)).float()
    tokens = torch.randint(0, V, attention.shape, generator=draw) * attention
    return Batch(
        ids=tuple(f"example-{row}" for row in range(len(lengths))),
        tokens_BL=tokens,
        attention_BL=attention,
        targets_BT=tokens,
        weights={"soft": weights, "hard": weights},
    )


@pytest.fixture
def batch():
    return batch_of()


@pytest.fixture
def head():
    torch.manual_seed(0)
    weight, bias = torch.randn(V, D), torch.randn(V)
    return unpack_head(pack_head(OutputHead(weight, bias, 0.5, 30.0), IDENTITY, channel_scales(torch.randn(99, D))))


@pytest.fixture
def spoken(batch, head):
    """Everything a teacher can say; NaN wherever nobody asked."""
    torch.manual_seed(1)
    B, L = batch.tokens_BL.shape
    states = torch.randn(B, L, D)
    states[batch.weights["soft"] == 0] = math.nan
    hidden = torch.randn(B, L, D)
    hidden[~batch.attention_BL] = math.nan
    return Signal(
        voice=IDENTITY.voice,
        logits=HeadedStates(states, head.head),
        hidden=HiddenStates({0: hidden, -1: hidden + 1}),
        attentions=Attentions({1: torch.rand(B, H, L, L)}),
    )


def packing_of(form, head, **more):
    more = {"top_k": K, **more} if FORMS[form].says == "top-k" else more
    more = {"hidden_layers": (0, -1), **more} if FORMS[form].says == "layers" else more
    return Packing(form, IDENTITY, head if FORMS[form].says == "hidden" else None, **more)


def sent(signal, batch, packing):
    return decode(bytearray(b"".join(encode(pack(signal, batch, packing)))))


def logits_at(signal, batch):
    asked = batch.weights["soft"] != 0
    if isinstance(signal.logits, HeadedStates):
        return signal.logits.head.logits(signal.logits.states_BTD[asked])
    return signal.logits.logits_BTV[asked]


@pytest.mark.parametrize("form", ["hidden-fp32", "logits"])
def test_exact_forms_are_exact(spoken, batch, head, form):
    packing = packing_of(form, head)
    back = unpack(sent(spoken, batch, packing), batch, packing)
    assert torch.equal(logits_at(back, batch), logits_at(spoken, batch))
    assert back.voice == spoken.voice


@pytest.mark.parametrize(
    ("form", "bound"),
    [("hidden-fp16", 2e-3), ("hidden-bf16", 2e-2), ("hidden-int8", 0.1), ("logits-fp16", 4e-3), ("logits-bf16", 4e-2)],
)
def test_rounded_forms_are_near(spoken, batch, head, form, bound):
    packing = packing_of(form, head)
    back = unpack(sent(spoken, batch, packing), batch, packing)
    gap = (logits_at(back, batch).float() - logits_at(spoken, batch)).abs().max()
    assert 0 < gap < bound


@pytest.mark.parametrize("form", ["hidden-fp16", "hidden-bf16"])
def test_states_are_rounded_once_and_exactly(spoken, batch, head, form):
    asked = batch.weights["soft"] != 0
    packing = packing_of(form, head)
    states = unpack(sent(spoken, batch, packing), batch, packing).logits.states_BTD
    kind = torch.float16 if form == "hidden-fp16" else torch.bfloat16
    assert torch.equal(states[asked], spoken.logits.states_BTD[asked].to(kind).float())


@pytest.mark.parametrize("said", ["headed", "dense", "sparse"])
def test_top_entries_from_whatever_the_teacher_says(spoken, batch, head, said):
    """fp16 log-probabilities of exactly the entries that the dense logits have."""
    asked = batch.weights["soft"] != 0
    dense = torch.zeros(*batch.tokens_BL.shape, V)
    dense[asked] = logits_at(spoken, batch)
    expected = top_k(dense, k=K, temperature=2.0)
    if said != "headed":
        spoken = dataclasses.replace(spoken, logits=DenseLogits(dense) if said == "dense" else expected)
    packing = packing_of("top-k", head, temperature=2.0)
    found = unpack(sent(spoken, batch, packing), batch, packing).logits
    assert isinstance(found, SparseLogprobs)
    assert found.temperature == 2.0
    assert torch.equal(found.indices_BTK[asked], expected.indices_BTK[asked])
    torch.testing.assert_close(found.logprobs_BTK[asked], expected.logprobs_BTK[asked], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.log_tail_BT[asked], expected.log_tail_BT[asked], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("form", ["layers-fp32", "hidden-fp32", "logits"])
def test_layers_come_back_without_their_padding(spoken, batch, head, form):
    packing = packing_of(form, head, hidden_layers=(0, -1), attention_layers=(1,))
    back = unpack(sent(spoken, batch, packing), batch, packing)
    read = batch.attention_BL
    for layer in (0, -1):
        assert torch.equal(back.hidden.layers[layer][read], spoken.hidden.layers[layer][read])
        assert not back.hidden.layers[layer][~read].any()
    both = (read.unsqueeze(1) & read.unsqueeze(2)).unsqueeze(1).expand(-1, H, -1, -1)
    assert torch.equal(back.attentions.layers[1][both], spoken.attentions.layers[1][both])
    assert not back.attentions.layers[1][~both].any()
    assert (back.logits is None) == (form == "layers-fp32")


@pytest.mark.parametrize("form", PACKINGS)
def test_only_asked_positions_travel(spoken, batch, head, form):
    packing = packing_of(form, head)
    frame = pack(spoken, batch, packing)
    asked, read = int((batch.weights["soft"] != 0).sum()), int(batch.attention_BL.sum())
    assert (asked, read) == (4, 9)
    for name, tensor in frame.tensors.items():
        assert len(tensor) == (read if name.startswith("hidden.") else asked)


@pytest.mark.parametrize("form", PACKINGS)
def test_rows_apart_are_the_rows_together(spoken, batch, head, form):
    """A store keeps rows: what it gives back must be bit for bit what came in one frame, in any order of rows."""
    packing = packing_of(form, head, hidden_layers=(0,), attention_layers=(1,))
    frame = pack(spoken, batch, packing)
    rows = [decode(bytearray(b"".join(encode(row)))) for row in rows_of(frame)]
    whole, parts = unpack(frame, batch, packing), unpack(rows, batch, packing)
    identical(whole, parts)
    order = [2, 0, 1]
    moved = dataclasses.replace(
        batch,
        ids=tuple(batch.ids[i] for i in order),
        tokens_BL=batch.tokens_BL[order],
        attention_BL=batch.attention_BL[order],
        targets_BT=batch.targets_BT[order],
        weights={name: weights[order] for name, weights in batch.weights.items()},
    )
    again = unpack([rows[i] for i in order], moved, packing)
    assert torch.equal(again.hidden.layers[0], whole.hidden.layers[0][order])


def identical(one, other):
    assert type(one.logits) is type(other.logits)
    for name in ("states_BTD", "logits_BTV", "indices_BTK", "logprobs_BTK", "log_tail_BT"):
        if hasattr(one.logits, name):
            assert torch.equal(getattr(one.logits, name), getattr(other.logits, name))
    for kind in ("hidden", "attentions"):
        for layer, tensor in getattr(one, kind).layers.items():
            assert torch.equal(tensor, getattr(other, kind).layers[layer])


def test_every_frame_says_who_speaks_and_of_what(spoken, batch, head):
    meta = pack(spoken, batch, packing_of("hidden-int8", head)).meta
    assert meta["teacher"] == {
        "weights": "w" * 64, "tokenizer": "t" * 64, "vocabulary_size": V,
        "norm": "RMSNorm(eps=1e-05)", "scale": 0.5, "softcap": 30.0,
    }  # fmt: skip
    assert (meta["temperature"], meta["support"], meta["head"]) == (1.0, V, head.sha256)
    assert pack(spoken, batch, packing_of("top-k", head, temperature=3.0)).meta["support"] == K


def test_bytes_are_those_of_the_table(spoken, batch, head):
    """Width, entries or k times their bytes, for each asked position; an index takes 2 bytes up to 65,536 entries."""
    sizes = {form: sum(t.nbytes for t in pack(spoken, batch, packing_of(form, head)).tensors.values()) for form in
             ("hidden-fp32", "hidden-bf16", "hidden-int8", "logits-bf16", "top-k")}  # fmt: skip
    asked = 4
    assert sizes == {
        "hidden-fp32": asked * D * 4,
        "hidden-bf16": asked * D * 2,
        "hidden-int8": asked * (D + 2),
        "logits-bf16": asked * V * 2,
        "top-k": asked * (K * (2 + 2) + 2),
    }
    assert frame_bytes(pack(spoken, batch, packing_of("top-k", head))) < 1200


class TestWhatIsRefused:
    """Fault 19: other length, other ids, NaN, unsorted or short top entries, another teacher. None of it is used."""

    @pytest.fixture
    def top(self, spoken, batch, head):
        packing = packing_of("top-k", head)
        return pack(spoken, batch, packing), packing

    @pytest.fixture
    def states(self, spoken, batch, head):
        packing = packing_of("hidden-int8", head)
        return pack(spoken, batch, packing), packing

    def changed(self, frame, **tensors):
        return Frame(frame.kind, frame.meta, {**frame.tensors, **tensors})

    def said(self, frame, **meta):
        return Frame(frame.kind, {**frame.meta, **meta}, frame.tensors)

    def test_another_kind(self, batch, states):
        frame, packing = states
        with pytest.raises(SignalError, match="a `head` came"):
            unpack(Frame("head", frame.meta, frame.tensors), batch, packing)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"weights": "x" * 64}, r"another teacher: weights xxxxxxxxxxxx… and not wwwwwwwwwwww…"),
            ({"tokenizer": "x" * 64}, "another teacher: tokenizer"),
            ({"vocabulary_size": 51}, "another teacher: vocabulary_size 51 and not 50"),
            ({"norm": ""}, "another teacher: norm"),
            ({"softcap": None}, "another teacher: softcap None and not 30.0"),
            ({"scale": float(2)}, "another teacher: scale"),
            ({"scale": 0.0}, "does not say who it is"),
            ({"vocabulary_size": True}, "does not say who it is"),
            ({"softcap": "30"}, "does not say who it is"),
            ({"more": 1}, "does not say who it is"),
        ],
    )
    def test_another_teacher(self, batch, states, change, why):
        """Faults 20 and 21: the teacher came back with other weights, another tokenizer or a padded vocabulary."""
        frame, packing = states
        with pytest.raises(SignalError, match=why):
            unpack(self.said(frame, teacher={**frame.meta["teacher"], **change}), batch, packing)

    @pytest.mark.parametrize(
        ("meta", "why"),
        [
            ({"form": "hidden-bf16"}, "form hidden-bf16 and hidden-int8 was agreed on"),
            ({"temperature": 2.0}, "temperature 2.0 and 1.0 was agreed on"),
            ({"temperature": True}, "temperature True"),
            ({"support": 7}, "support 7 and 50"),
            ({"head": "0" * 64}, "head 0000"),
            ({"hidden": [3]}, r"hidden \[3\]"),
            ({"rows": ["a"] * 3}, "which rows"),
            ({"rows": "abc"}, "which rows"),
            ({"asked": [1, 2]}, "how many positions"),
            ({"asked": [2, 2, -1]}, "how many positions"),
            ({"asked": [3, 1, True]}, "how many positions"),
            ({"read": None}, "how many positions"),
            ({"asked": [3, 2, 0]}, "was agreed on"),
            ({"asked": [2, 2, 0]}, "another number of positions"),
            ({"read": [5, 2, 2]}, "another number of positions"),
            ({"more": 1}, "of itself"),
        ],
    )
    def test_other_terms_and_lengths(self, batch, states, meta, why):
        frame, packing = states
        with pytest.raises(SignalError, match=why):
            unpack(self.said(frame, **meta), batch, packing)

    def test_other_rows(self, spoken, batch, states):
        """Other ids, other tokens under the same ids, rows left out or moved."""
        frame, packing = states
        rows = rows_of(frame)
        others = [
            frame.meta["rows"][::-1],
            ["0" * 32, *frame.meta["rows"][1:]],
        ]
        for keys in others:
            with pytest.raises(SignalError, match=r"3 rows and 3 were asked about; [12] of those"):
                unpack(self.said(frame, rows=keys), batch, packing)
        with pytest.raises(SignalError, match="for 2 rows and 3 were asked"):
            unpack(rows[:2], batch, packing)
        with pytest.raises(SignalError, match="belongs to another batch"):
            unpack(frame, batch_of(seed=1), packing)
        with pytest.raises(SignalError, match="belongs to another batch"):
            unpack(frame, batch_of(prompt=2), packing)

    def test_numbers_no_teacher_can_mean(self, batch, states):
        frame, packing = states
        for bad in (math.nan, math.inf, 0.0, -1.0):
            scales = frame.tensors["scales"].clone()
            scales[2] = bad
            with pytest.raises(SignalError, match="`scales` holds numbers"):
                unpack(self.changed(frame, scales=scales), batch, packing)
        for bad in (frame.tensors["states"][:-1], frame.tensors["states"].half(), frame.tensors["states"][:, :-1]):
            with pytest.raises(SignalError, match="`states` is torch"):
                unpack(self.changed(frame, states=bad), batch, packing)
        with pytest.raises(SignalError, match=r"\['scales'\] and \['scales', 'states'\]"):
            unpack(Frame("signal", frame.meta, {"scales": frame.tensors["scales"]}), batch, packing)

    @pytest.mark.parametrize("form", ["hidden-fp32", "logits", "layers-fp32"])
    def test_not_finite(self, spoken, batch, head, form):
        packing = packing_of(form, head)
        frame = pack(spoken, batch, packing)
        name = next(iter(frame.tensors))
        for bad in (math.nan, math.inf):
            tensor = frame.tensors[name].clone()
            tensor.view(-1)[3] = bad
            with pytest.raises(SignalError, match="not finite"):
                unpack(self.changed(frame, **{name: tensor}), batch, packing)

    def test_top_entries_out_of_order_short_twice_or_beyond(self, batch, top):
        frame, packing = top
        logprobs, indices, tail = (frame.tensors[name] for name in ("logprobs", "indices", "tail"))
        twice = indices.clone()
        twice[1, 3] = twice[1, 0]
        beyond = indices.clone()
        beyond[0, 0] = V
        cases = {
            "most likely first": {"logprobs": logprobs.flip(1)},
            "was agreed on": {"logprobs": logprobs[:, :-1], "indices": indices[:, :-1]},
            "an entry twice": {"indices": twice},
            "beyond the teacher's 50": {"indices": beyond},
            "a mass of": {"tail": torch.zeros_like(tail)},
            "NaN or above 0": {"tail": torch.full_like(tail, math.nan)},
            "`logprobs` holds numbers that are NaN or above 0": {"logprobs": logprobs + 20},
        }
        for why, change in cases.items():
            with pytest.raises(SignalError, match=why):
                unpack(self.changed(frame, **change), batch, packing)

    def test_attention_maps_of_half_a_head(self, spoken, batch, head):
        packing = packing_of("layers-fp16", head, hidden_layers=(), attention_layers=(1,))
        frame = pack(spoken, batch, packing)
        with pytest.raises(SignalError, match=r"`attention\.1` is torch"):
            unpack(self.changed(frame, **{"attention.1": frame.tensors["attention.1"][:-1]}), batch, packing)


class TestWhatIsNotSent:
    def test_numbers_that_are_not_finite(self, spoken, batch, head):
        """Fault 23: int8 would turn NaN into a number."""
        states = spoken.logits.states_BTD.clone()
        states[0, 2, 3] = math.inf
        bad = dataclasses.replace(spoken, logits=HeadedStates(states, head.head))
        assert unsound(bad, batch) == "last states are not finite"
        assert unsound(spoken, batch) is None
        for form in ("hidden-int8", "hidden-bf16", "logits", "top-k"):
            with pytest.raises(SignalError, match="last states are not finite"):
                pack(bad, batch, packing_of(form, head))
        hidden = spoken.hidden.layers[0].clone()
        hidden[2, 0, 0] = math.nan
        bad = dataclasses.replace(spoken, hidden=HiddenStates({0: hidden}))
        assert unsound(bad, batch) == "states of layer 0 are not finite"

    @pytest.mark.parametrize("form", ["hidden-fp16", "logits-fp16", "layers-fp16"])
    def test_numbers_beyond_the_form(self, spoken, batch, head, form):
        """Found before anything is stored: a row of infinities would be refused at every reading."""
        plain = OutputHead(head.head.weight_VD * 1e4)
        wide = dataclasses.replace(
            spoken,
            logits=HeadedStates(spoken.logits.states_BTD * 1e5, plain),
            hidden=HiddenStates({layer: states * 1e6 for layer, states in spoken.hidden.layers.items()}),
        )
        assert unsound(wide, batch) is None
        with pytest.raises(SignalError, match=f"beyond the range of form {form}"):
            pack(wide, batch, packing_of(form, head))

    def test_another_voice_or_kind(self, spoken, batch, head):
        with pytest.raises(SignalError, match="teacher other spoke"):
            pack(dataclasses.replace(spoken, voice=Voice("other", V)), batch, packing_of("logits", head))
        dense = dataclasses.replace(spoken, logits=DenseLogits(torch.zeros(3, 5, V)))
        with pytest.raises(SignalError, match="needs last states and the teacher sends DenseLogits"):
            pack(dense, batch, packing_of("hidden-bf16", head))
        sparse = dataclasses.replace(spoken, logits=top_k(torch.zeros(3, 5, V), k=K, temperature=1.0))
        with pytest.raises(SignalError, match="needs whole logits"):
            pack(sparse, batch, packing_of("logits", head))
        with pytest.raises(SignalError, match=r"temperature 1\.0 are not the 6 at 4\.0"):
            pack(sparse, batch, packing_of("top-k", head, temperature=4.0))
        with pytest.raises(SignalError, match="layer 3 is to be sent"):
            pack(spoken, batch, packing_of("layers-fp32", head, hidden_layers=(3,)))
        with pytest.raises(SignalError, match="attentions of block 0"):
            pack(spoken, batch, packing_of("layers-fp32", head, attention_layers=(0,)))

    def test_terms_that_cannot_be_kept(self, head):
        bare = dataclasses.replace(head, channels_D=None)
        cases = [
            (("top-k", IDENTITY), "k from 1 to 50, not None"),
            (("top-k", IDENTITY, None, 51), "k from 1 to 50, not 51"),
            (("hidden-bf16", IDENTITY), "needs the teacher's head"),
            (("hidden-int8", IDENTITY, bare), "came without"),
            (("layers-fp32", IDENTITY), "carries nothing"),
        ]
        for arguments, why in cases:
            with pytest.raises(SignalError, match=why):
                Packing(*arguments)


def test_the_key_of_a_row_is_its_content(batch):
    keys = row_keys(batch)
    assert len(set(keys)) == 3
    assert row_keys(batch_of(seed=1))[0] != keys[0]
    assert row_keys(batch_of(prompt=2))[:2] != keys[:2]
    wider = functools.partial(torch.nn.functional.pad, pad=(0, 4))
    padded = dataclasses.replace(
        batch,
        **{name: wider(getattr(batch, name)) for name in ("tokens_BL", "attention_BL", "targets_BT")},
        weights={name: wider(weights) for name, weights in batch.weights.items()},
    )
    assert row_keys(padded) == keys
    renamed = dataclasses.replace(batch, ids=("other", *batch.ids[1:]))
    assert row_keys(renamed)[0] != keys[0]
    assert row_keys(renamed)[1:] == keys[1:]
