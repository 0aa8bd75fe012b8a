"""A teacher that speaks through a real head, batches for it, and the packing of both; small enough to be made anew."""

import torch

from potstill.core.batch import Batch
from potstill.core.signal import HeadedStates, HiddenStates, OutputHead, Signal
from potstill.teachers.head import pack_head, unpack_head
from potstill.teachers.identity import Identity
from potstill.teachers.int8 import channel_scales
from potstill.teachers.packing import Packing

V, D = 50, 16
IDENTITY = Identity("w" * 64, "t" * 64, V, "RMSNorm(eps=1e-05)", softcap=30.0)


def head_frame():
    draw = torch.Generator().manual_seed(3)
    weight, slice_ = torch.randn(V, D, generator=draw), torch.randn(99, D, generator=draw)
    return pack_head(OutputHead(weight, softcap=30.0), IDENTITY, channel_scales(slice_))


def packing(form="hidden-int8"):
    return Packing(form, IDENTITY, unpack_head(head_frame()))


def batch_of(rows, longest=12):
    """Row r has tokens, length and weights that depend on r alone."""
    tokens = torch.stack([(torch.arange(longest) * 7 + row) % V for row in rows])
    lengths = torch.tensor([3 + row % (longest - 3) for row in rows])
    attention = torch.arange(longest) < lengths.unsqueeze(1)
    weights = (torch.arange(longest) < lengths.unsqueeze(1) - 1).float()
    return Batch(
        ids=tuple(f"example-{row}" for row in rows),
        tokens_BL=tokens * attention,
        attention_BL=attention,
        targets_BT=tokens,
        weights={"soft": weights, "hard": weights},
        rows=tuple(rows),
    )


class Speaker:
    """States are a function of the token, and of the batch-mates in their last bits, as on real hardware."""

    def __init__(self, head=None):
        self.voice, self.asked = IDENTITY.voice, []
        self.head = (head or unpack_head(head_frame())).head
        self.table = torch.randn(V, D, generator=torch.Generator().manual_seed(4))

    def signal(self, batch, want):
        self.asked.append(batch.ids)
        states = self.table[batch.tokens_BL] + 1e-3 * len(batch.ids)
        hidden = HiddenStates({layer: states + layer for layer in want.hidden_layers}) if want.hidden_layers else None
        return Signal(voice=self.voice, logits=HeadedStates(states, self.head), hidden=hidden)
