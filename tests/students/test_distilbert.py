"""A BERT rebuilt as a DistilBERT: exact sizes on the real shapes, the same answers, blocks bit for bit."""

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.distilbert import as_distilbert
from potstill.students.fingerprint import count_parameters
from potstill.students.inherit import _fresh
from potstill.students.layouts import blocks_of, dimensions_of
from potstill.students.load import load_model
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.save import save_model
from potstill.students.settings import ModelSettings, SizeSettings
from potstill.students.surgery import keep_layers
from potstill.students.taps import outputs
from tests.students.test_inherit import loaded, student
from tests.students.tiny import batch_of, tiny

OF_TWELVE = (0, 2, 4, 7, 9, 11)


def unreal(kind, config):
    """The real architecture without memory for its weights."""
    with torch.device("meta"):
        return kind(config)


def test_the_sizes_of_distilbert_and_bert():
    """Sanh et al. 2019, table 3: 66 M of 110 M; exact by counting the published config."""
    bert = unreal(BertModel, BertConfig())
    assert count_parameters(bert) == 109_482_240
    assert count_parameters(blocks_of(bert)[0]) == 7_087_872
    with torch.device("meta"):
        assert count_parameters(as_distilbert(keep_layers(bert, OF_TWELVE))) == 66_362_880
        with_head = as_distilbert(keep_layers(unreal(BertForMaskedLM, BertConfig()), OF_TWELVE))
    assert count_parameters(with_head) == 66_362_880 + 768 * 768 + 768 + 2 * 768 + 30_522


def test_the_sizes_of_distilroberta():
    config = RobertaConfig(vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)
    with torch.device("meta"):
        made = keep_layers(unreal(RobertaForMaskedLM, config), OF_TWELVE)
    assert count_parameters(made) == 82_170_201  # 82 M (the README of its code), head included
    assert count_parameters(made.roberta) == 81_527_808


def test_the_size_of_tinybert():
    """Jiao et al. 2020, table 1: 14.5 M; exact by counting, pooler included."""
    size = SizeSettings(hidden_size=312, num_hidden_layers=4, num_attention_heads=12, intermediate_size=1200)
    with torch.device("meta"):
        made = _fresh(size, unreal(BertModel, BertConfig()), seed=0)
    assert count_parameters(made) == 14_350_248
    assert dimensions_of(made).heads == 12


def test_all_blocks_give_the_answers_of_the_teacher():
    bert, batch = tiny("bert", "masked-lm"), batch_of()
    want = Want(hidden_layers=(0, 2, -1))
    with torch.no_grad():
        ours, theirs = outputs(as_distilbert(bert), batch, want), outputs(bert, batch, want)
    real = batch.attention_BL
    torch.testing.assert_close(ours.logits_BTV[real], theirs.logits_BTV[real], rtol=0, atol=1e-5)
    for layer in (0, 2, -1):
        torch.testing.assert_close(ours.hidden.layers[layer], theirs.hidden.layers[layer], rtol=0, atol=1e-5)


def test_dropping_the_token_type_would_have_changed_the_answers():
    bert, batch = tiny("bert", "masked-lm"), batch_of()
    made = as_distilbert(bert)
    with torch.no_grad():
        made.distilbert.embeddings.position_embeddings.weight.copy_(bert.bert.embeddings.position_embeddings.weight)
        apart = outputs(made, batch, Want()).logits_BTV - outputs(bert, batch, Want()).logits_BTV
    assert apart.abs().max() > 1e-2


def test_every_block_is_bitwise_the_one_it_came_from():
    bert = tiny("bert", "masked-lm")
    made = as_distilbert(keep_layers(bert, (0, 3)))
    for block, layer in zip(blocks_of(made), (0, 3), strict=True):
        ours = sorted(weight.detach().double().sum().item() for weight in block.parameters())
        theirs = sorted(weight.detach().double().sum().item() for weight in blocks_of(bert)[layer].parameters())
        assert ours == theirs
        assert torch.equal(block.attention.q_lin.weight, blocks_of(bert)[layer].attention.self.query.weight)
        assert torch.equal(block.ffn.lin2.bias, blocks_of(bert)[layer].output.dense.bias)
        assert torch.equal(block.sa_layer_norm.weight, blocks_of(bert)[layer].attention.output.LayerNorm.weight)
    assert made.vocab_projector.weight is made.distilbert.embeddings.word_embeddings.weight


def test_a_student_is_saved_and_read_by_the_library(tmp_path):
    source = loaded("bert", "masked-lm", fresh=("cls.predictions.transform.dense.weight",))
    made = student(source, "masked-lm", layers=(0, 2), architecture="distilbert", vocabulary_size=60)
    assert made.fresh == ("vocab_transform.weight",)
    assert "as a DistilBERT" in made.record.display_name
    save_model(made, tmp_path / "m")
    again, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert type(again).__name__ == "DistilBertForMaskedLM"
    with torch.no_grad():
        batch = batch_of()
        assert torch.equal(outputs(again, batch, Want()).logits_BTV, outputs(made.module, batch, Want()).logits_BTV)


def test_a_mean_pooled_classifier_keeps_its_head_and_its_classes():
    bert, batch = tiny("bert", "classify").bert, batch_of()
    source = MeanPooledClassifier(bert).eval()
    made = as_distilbert(source)
    assert type(made.encoder).__name__ == "DistilBertModel"
    assert made.config.id2label == source.config.id2label
    with torch.no_grad():
        ours, theirs = outputs(made, batch, Want()).logits_BTV, outputs(source, batch, Want()).logits_BTV
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (lambda: tiny("roberta", "masked-lm"), "RobertaForMaskedLM cannot be rebuilt"),
        (lambda: tiny("bert", "classify"), "pooling: mean"),
        (lambda: BertModel(BertConfig(**TINY, layer_norm_eps=1e-5)), "epsilon 1e-05 and DistilBERT's 1e-12"),
    ],
)
def test_what_is_no_distilbert_is_refused(module, words):
    with pytest.raises(ModelError, match=words):
        as_distilbert(module())


TINY = {"vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}


def test_the_packaged_encoder_says_the_same_as_a_distilbert():
    found = load_model(ModelSettings(model_name_or_path="packaged:minilm-l6-v2"), task="classify", labels=["a", "b"])
    made = as_distilbert(found.module)
    read = found.tokenizer(["a sentence", "another one, which is longer"], padding=True, return_tensors="pt")
    with torch.no_grad():
        ours = made(read["input_ids"], read["attention_mask"]).logits
        theirs = found.module(read["input_ids"], read["attention_mask"], read["token_type_ids"]).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert count_parameters(found.module) - count_parameters(made) == 2 * 384  # the token types
