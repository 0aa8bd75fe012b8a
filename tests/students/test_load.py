import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.load import load_model
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.taps import outputs
from tests.students.tiny import batch_of, edit_json, tiny, word_level, wordpiece

LABELS = ("red", "green", "blue")


def load(folder, task="classify", labels=None, kind=ModelSettings, **settings):
    return load_model(kind(model_name_or_path=str(folder), **settings), task=task, labels=labels)


@pytest.fixture
def encoder_folder(tmp_path):
    """An encoder without any head."""
    folder = tmp_path / "encoder"
    tiny("bert", "classify").bert.save_pretrained(folder)
    wordpiece().save_pretrained(folder)
    return folder


def test_a_classifier_is_what_was_saved(bert_folder):
    found = load(bert_folder, labels=LABELS)
    with torch.no_grad():
        ours, theirs = (outputs(m, batch_of(), Want()).logits_BTV for m in (found.module, tiny("bert", "classify")))
    assert torch.equal(ours, theirs)
    assert not found.module.training
    assert next(found.module.parameters()).dtype == torch.float32
    assert (found.fresh, found.unused) == ((), ())
    assert found.record.architecture == "BertForSequenceClassification"
    assert found.record.folder == bert_folder
    assert found.record.revision == f"sha256:{found.record.weights_sha256[:16]}"
    assert found.record.licence == "unknown"
    assert found.record.display_name == "bert"


def test_the_record_of_half_precision_is_read_in_fp32(bert_folder):
    tiny("bert", "classify").to(torch.bfloat16).save_pretrained(bert_folder)
    assert next(load(bert_folder).module.parameters()).dtype == torch.float32


def test_the_same_folder_has_the_same_fingerprint_and_another_has_not(bert_folder):
    first, second = load(bert_folder).record, load(bert_folder).record
    assert first == second
    assert len(first.fingerprint) == 16
    weights = load_file(bert_folder / "model.safetensors")
    weights["classifier.bias"] += 1e-6
    save_file(weights, bert_folder / "model.safetensors", metadata={"format": "pt"})
    assert load(bert_folder).record.fingerprint != first.fingerprint


def test_the_licence_is_read_from_the_card(bert_folder):
    (bert_folder / "README.md").write_text("---\ntags: [a]\nlicense: cc-by-4.0\n---\nlicense: mit\n")
    assert load(bert_folder).record.licence == "cc-by-4.0"


def test_a_causal_model(llama_folder):
    found = load(llama_folder, task="causal-lm")
    assert outputs(found.module, batch_of(), Want()).logits_BTV.shape == (3, 9, 60)
    assert found.record.vocabulary_size == 60
    assert found.fresh == ()


def test_a_missing_head_is_fresh_and_the_same_every_time(encoder_folder):
    first, second = (load(encoder_folder, labels=LABELS) for _ in range(2))
    assert first.fresh == ("classifier.bias", "classifier.weight")
    assert first.record.fingerprint == second.record.fingerprint
    assert first.module.config.id2label == {0: "red", 1: "green", 2: "blue"}


def test_mean_pooling_drops_the_pooler(encoder_folder):
    found = load(encoder_folder, labels=LABELS, pooling="mean")
    assert isinstance(found.module, MeanPooledClassifier)
    assert found.fresh == ("head.bias", "head.weight")
    assert found.unused == ("pooler.dense.bias", "pooler.dense.weight")


def test_a_head_needs_classes(encoder_folder):
    with pytest.raises(ModelError, match="no classifier head and the classes are not known"):
        load(encoder_folder)


def test_a_head_with_other_classes_is_refused_unless_it_is_replaced(bert_folder):
    with pytest.raises(ModelError, match="3 classes and the data has 2"):
        load(bert_folder, labels=("a", "b"))
    found = load(bert_folder, labels=("a", "b"), kind=StudentSettings, head="fresh")
    assert found.module.config.num_labels == 2
    assert set(found.fresh) == {"classifier.bias", "classifier.weight"}


def test_classes_in_another_order_are_refused(bert_folder):
    with pytest.raises(ModelError, match=r"class 0 is `red` in its head and `green` in the data"):
        load(bert_folder, labels=("green", "red", "blue"))
    assert load(bert_folder, labels=("Red", "GREEN", "blue")).fresh == ()


def test_names_that_no_one_gave_fit_any(bert_folder):
    tiny("bert", "classify").save_pretrained(bert_folder)
    assert load(bert_folder, labels=LABELS).module.config.id2label[2] == "blue"


def test_a_language_model_without_its_head_is_refused(encoder_folder):
    with pytest.raises(ModelError, match=r"masked-lm needs are missing"):
        load(encoder_folder, task="masked-lm")


def test_missing_body_weights_are_refused(bert_folder):
    weights = load_file(bert_folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, bert_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights .*bert\.encoder\.layer\.1\.output\.dense\.weight"):
        load(bert_folder)


def test_weights_of_another_shape_are_refused(bert_folder):
    edit_json(bert_folder / "config.json", hidden_size=32)
    with pytest.raises(ModelError, match="do not fit"):
        load(bert_folder)


def test_values_that_are_not_finite_are_refused(bert_folder):
    weights = load_file(bert_folder / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][3, 3] = float("inf")
    save_file(weights, bert_folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="not finite"):
        load(bert_folder)


def test_a_config_that_contradicts_itself(bert_folder):
    edit_json(bert_folder / "config.json", hidden_size="wide")
    with pytest.raises(ModelError, match=r"config\.json"):
        load(bert_folder)


def test_a_damaged_tokenizer(bert_folder):
    (bert_folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        load(bert_folder)


def test_a_tokenizer_that_the_library_would_replace(tmp_path):
    tiny("qwen2", "causal-lm").save_pretrained(tmp_path)
    word_level().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a WordLevel tokenizer and transformers reads a BPE one"):
        load(tmp_path, task="causal-lm")


def test_a_task_the_architecture_cannot_do(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**small, "vocab_size": 80}, vision_config={**small, "image_size": 8, "patch_size": 4}
    )
    CLIPModel(config).save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="`clip` model cannot do causal-lm"):
        load(tmp_path, task="causal-lm")


def test_pooling_is_for_classifiers(llama_folder):
    with pytest.raises(ModelError, match="pooling: mean is for classifiers"):
        load(llama_folder, task="causal-lm", pooling="mean")


def test_the_packaged_encoder_is_read_by_its_mean():
    found = load("packaged:minilm-l6-v2", labels=LABELS)
    assert isinstance(found.module, MeanPooledClassifier)
    assert found.record.licence == "Apache-2.0"
    assert found.record.revision == "0.1.0"
    first = load("packaged:minilm-l6-v2", labels=LABELS, pooling="first")
    assert first.record.architecture == "BertForSequenceClassification"
    theirs = AutoModel.from_pretrained(found.record.folder).eval()
    inputs = found.tokenizer(["a sentence", "another one, longer"], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = theirs(**inputs).last_hidden_state
        mean = (states * inputs["attention_mask"].unsqueeze(-1)).sum(1) / inputs["attention_mask"].sum(1, keepdim=True)
        ours = found.module(inputs["input_ids"], inputs["attention_mask"], inputs["token_type_ids"]).logits
    torch.testing.assert_close(ours, found.module.head(mean).detach(), rtol=0, atol=1e-5)


def test_how_a_tokenizer_was_read_is_not_saved(bert_folder, tmp_path):
    load(bert_folder).tokenizer.save_pretrained(tmp_path / "t")
    assert "local_files_only" not in json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())


def test_pads_are_known_to_a_decoder_that_classifies(llama_folder):
    edit_json(llama_folder / "config.json", pad_token_id=None)
    found = load(llama_folder, labels=LABELS)
    assert found.module.config.pad_token_id == 0
    assert found.fresh == ("score.weight",)


def test_an_encoder_without_a_masked_head_gets_one_that_is_tied_where_it_is_asked_for(tmp_path):
    tiny("bert", "classify").bert.save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="fit a head in a first stage"):
        load(tmp_path, task="masked-lm")
    asked = StudentSettings(model_name_or_path=str(tmp_path), head="fresh")
    found, again = (load_model(asked, task="masked-lm", labels=None) for _ in range(2))
    assert found.fresh
    assert all(name.startswith("cls.") for name in found.fresh)
    module = found.module
    assert module.cls.predictions.decoder.weight is module.bert.embeddings.word_embeddings.weight
    assert found.record.fingerprint == again.record.fingerprint


def test_a_fresh_masked_head_where_there_is_one_already(tmp_path):
    tiny("bert", "masked-lm").save_pretrained(tmp_path)
    wordpiece().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="it has a masked-language-model head: remove head"):
        load_model(StudentSettings(model_name_or_path=str(tmp_path), head="fresh"), task="masked-lm", labels=None)
