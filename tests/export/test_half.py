"""A folder in bfloat16: rounded once, loaded by transformers as it is, and held to the trained model."""

import pytest
import torch
from safetensors.torch import load_file

from potstill.core.errors import ModelError
from potstill.export.card import CardFacts
from potstill.export.half import export_bf16
from potstill.export.settings import ExportSettings
from tests.export.sentences import rows


def export(loaded, target, task, **settings):
    facts = CardFacts(name="tiny", task=task, licence="Apache-2.0")
    return export_bf16(loaded, target, task=task, facts=facts, settings=ExportSettings(**settings), rows=rows())


@pytest.mark.parametrize("kind", ["classifier", "pooled", "decoder"])
def test_every_weight_is_rounded_and_the_trained_model_is_not(kind, tmp_path, request):
    loaded = request.getfixturevalue(kind)
    before = {name: weight.clone() for name, weight in loaded.module.state_dict().items()}
    exported = export(loaded, tmp_path / "out", "causal-lm" if kind == "decoder" else "classify")
    assert exported.published, exported.findings
    saved = [tensor for file in exported.folder.rglob("*.safetensors") for tensor in load_file(file).values()]
    assert {tensor.dtype for tensor in saved} == {torch.bfloat16}
    assert all(torch.equal(before[name], weight) for name, weight in loaded.module.state_dict().items())
    assert not any(weight.dtype == torch.bfloat16 for weight in loaded.module.state_dict().values())


def test_what_answers_otherwise_is_not_published(pooled, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "potstill.export.half.of_module", lambda module: lambda inputs: -module(*inputs[:2]).logits.float()
    )
    exported = export(pooled, tmp_path / "out", "classify")
    assert exported.folder.name == "out.failed"
    pooled.module.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ModelError, match="served training only"):
        export(pooled, tmp_path / "out", "classify")
