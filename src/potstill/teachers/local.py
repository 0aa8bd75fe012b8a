"""A teacher that is a model in this process."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from potstill.core.batch import Batch
from potstill.core.errors import SignalError
from potstill.core.protocols import Forward
from potstill.core.signal import DenseLogits, HeadedStates, Signal, Voice, Want


@dataclass(frozen=True, slots=True)
class LocalTeacher:
    """Asks a model for the outputs of a batch, without gradient.

    module: the network behind `forward`, where there is one. It must be in evaluation mode; whoever loaded it sees to
    that, and a teacher with live dropout is an error of the program, not of the user.
    """

    forward: Forward
    voice: Voice
    module: torch.nn.Module | None = None

    def signal(self, batch: Batch, want: Want) -> Signal:
        """Whatever is wanted, detached. Raises SignalError when the model's logits are not as wide as its vocabulary.

        no_grad and not inference_mode: the objective multiplies these tensors with the student's, and autograd must be
        able to keep them for its backward pass.
        """
        if self.module is not None:
            assert not any(part.training for part in self.module.modules()), "the teacher must be in evaluation mode"
        with torch.no_grad():
            outputs = self.forward(batch, want)
        if want.headed:
            assert outputs.headed is not None, "whoever is asked for headed states answers with them"
            width = outputs.headed.head.weight_VD.shape[0]
            logits: DenseLogits | HeadedStates | None = outputs.headed.detached()
        elif outputs.logits_BTV is not None:
            width = outputs.logits_BTV.shape[-1]
            logits = DenseLogits(outputs.logits_BTV) if want.logits else None
        else:
            width, logits = self.voice.vocabulary_size, None
        if want.logits and width != self.voice.vocabulary_size:
            raise SignalError(
                f"teacher {self.voice.teacher} has {self.voice.vocabulary_size} entries in its vocabulary but its "
                f"logits are {width} wide: load it with its own tokenizer and labels"
            )
        return Signal(
            voice=self.voice,
            logits=logits,
            hidden=outputs.hidden,
            attentions=outputs.attentions,
            scores=outputs.scores,
        )
