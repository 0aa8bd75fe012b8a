import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification

from potstill.core.errors import ModelError
from potstill.core.signal import Want
from potstill.students.fingerprint import recorded, weights_sha256
from potstill.students.inherit import make_student
from potstill.students.layouts import blocks_of, head_of
from potstill.students.load import LoadedModel, load_model
from potstill.students.pooled import MeanPooledClassifier
from potstill.students.save import save_model
from potstill.students.settings import ModelSettings, SizeSettings, StudentSettings
from potstill.students.taps import outputs
from tests.students.tiny import DECODERS, ENCODERS, batch_of, tiny, word_level, wordpiece

LABELS = ("red", "green", "blue")
TEXTS = ("the cat sat on the mat", "dog")
SIZE = SizeSettings(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12)
READERS = {
    "classify": AutoModelForSequenceClassification,
    "masked-lm": AutoModelForMaskedLM,
    "causal-lm": AutoModelForCausalLM,
}


def loaded(kind, task, fresh=()):
    module = tiny(kind, task)
    if task == "classify":
        module.config.id2label = dict(enumerate(LABELS))
        module.config.label2id = {name: index for index, name in enumerate(LABELS)}
    return wrapped(module, word_level() if kind in DECODERS else wordpiece(), fresh)


def wrapped(module, tokenizer, fresh=()):
    record = recorded(
        module, tokenizer, source="src", display_name="Teacher", revision="r1", licence="Apache-2.0", folder=None
    )
    return LoadedModel(module, tokenizer, record, fresh)


def student(source, task, seed=0, labels=LABELS, texts=TEXTS, **settings):
    chosen = StudentSettings(model_name_or_path="src", **settings)
    return make_student(
        chosen, source, task=task, labels=labels if task == "classify" else None, texts=texts, seed=seed
    )


def logits(module, batch=None):
    with torch.no_grad():
        return outputs(module, batch or batch_of(), Want()).logits_BTV


CASES = [
    ("bert", "classify", {"layers": (0, 3), "vocabulary_size": 60, "max_positions": 12, "intermediate_size": 10}),
    ("roberta", "classify", {"every": 2, "max_positions": 12, "head": "fresh"}),
    ("distilbert", "classify", {"size": SIZE}),
    ("electra", "classify", {"size": SIZE}),
    ("bert", "masked-lm", {"layers": (1,), "vocabulary_size": 60}),
    ("distilbert", "masked-lm", {"every": 3, "intermediate_size": 7}),
    ("llama", "causal-lm", {"every": 2, "intermediate_size": 10}),
    ("mistral", "causal-lm", {"layers": (1, 2, 3)}),
    ("gemma3_text", "causal-lm", {"size": SIZE}),
    ("qwen3", "causal-lm", {"size": SIZE}),
    ("smollm3", "causal-lm", {"size": SIZE}),
    ("gpt2", "causal-lm", {"size": SIZE}),
    ("llama", "classify", {"layers": (0, 3), "head": "fresh"}),
]


@pytest.mark.parametrize(("kind", "task", "settings"), CASES)
def test_a_saved_student_reloads_without_our_code_to_identical_logits(kind, task, settings, tmp_path):
    source = loaded(kind, task)
    before = weights_sha256(source.module)
    made = student(source, task, **settings)
    assert weights_sha256(source.module) == before
    save_model(made, tmp_path / "m")
    again, info = READERS[task].from_pretrained(tmp_path / "m", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    batch = batch_of(vocabulary=min(60, made.record.vocabulary_size))
    assert torch.equal(logits(again.eval(), batch), logits(made.module, batch))
    ours = load_model(
        ModelSettings(model_name_or_path=str(tmp_path / "m")),
        task=task,
        labels=LABELS if task == "classify" else None,
    )
    assert ours.record.fingerprint == made.record.fingerprint
    assert ours.fresh == ()


def test_the_model_itself_is_a_copy():
    source = loaded("bert", "classify")
    made = student(source, "classify")
    assert torch.equal(logits(made.module), logits(source.module))
    with torch.no_grad():
        next(made.module.parameters()).add_(1)
    assert not torch.equal(logits(made.module), logits(source.module))
    assert made.fresh == ()
    assert made.record.display_name == "Teacher"
    assert made.record.licence == "Apache-2.0"


def test_the_name_says_what_was_cut():
    made = student(loaded("bert", "classify"), "classify", layers=(0, 3), vocabulary_size=60)
    assert made.record.display_name == "Teacher, blocks 0+3, 60 pieces"
    assert made.record.vocabulary_size == 60


def test_a_copied_head_is_the_old_one_and_a_fresh_one_is_seeded():
    source = loaded("roberta", "classify")
    assert torch.equal(head_of(student(source, "classify", layers=(0,)).module).weight, head_of(source.module).weight)
    one, same, other = (student(source, "classify", layers=(0,), head="fresh", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(head_of(one.module).weight, head_of(same.module).weight)
    assert not torch.equal(head_of(one.module).weight, head_of(other.module).weight)
    assert not torch.equal(one.module.classifier.dense.weight, source.module.classifier.dense.weight)
    assert set(one.fresh) == {
        f"classifier.{part}.{kind}" for part in ("dense", "out_proj") for kind in ("weight", "bias")
    }
    assert torch.equal(blocks_of(one.module)[0].output.dense.weight, blocks_of(source.module)[0].output.dense.weight)


def test_a_head_that_was_never_trained_is_seeded_again():
    source = loaded("bert", "classify", fresh=("classifier.weight", "classifier.bias"))
    one, other = (student(source, "classify", seed=seed) for seed in (1, 2))
    assert not torch.equal(head_of(one.module).weight, head_of(other.module).weight)


def test_a_copied_head_must_have_the_classes():
    with pytest.raises(ModelError, match=r"3 classes and the data has 2: set head: fresh"):
        student(loaded("bert", "classify"), "classify", labels=("a", "b"))
    made = student(loaded("bert", "classify"), "classify", labels=("a", "b"), head="probe")
    assert logits(made.module).shape == (3, 1, 2)
    assert made.module.config.id2label == {0: "a", 1: "b"}


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_a_size_is_obeyed_and_seeded(kind):
    task = "causal-lm" if kind in DECODERS else "classify"
    source = loaded(kind, task)
    one, same, other = (student(source, task, size=SIZE, seed=seed) for seed in (1, 1, 2))
    assert one.record.weights_sha256 == same.record.weights_sha256 != other.record.weights_sha256
    assert len(blocks_of(one.module)) == 2
    with torch.no_grad():
        hidden = outputs(one.module, batch_of(), Want(hidden_layers=(1,))).hidden.layers[1]
    assert hidden.shape == (3, 9, 8)
    assert type(one.module) is type(source.module)
    assert set(one.fresh) == {name for name, _ in one.module.named_parameters()}


def test_grouped_heads_of_a_size():
    grouped = SIZE.model_copy(update={"num_key_value_heads": 1})
    made = student(loaded("llama", "causal-lm"), "causal-lm", size=grouped)
    assert blocks_of(made.module)[0].self_attn.k_proj.out_features == 4
    with pytest.raises(ModelError, match="num_key_value_heads"):
        student(loaded("bert", "classify"), "classify", size=grouped)


def test_a_mean_pooled_source_makes_mean_pooled_students():
    torch.manual_seed(0)
    module = MeanPooledClassifier(tiny("bert", "classify").bert).eval()
    module.config.id2label = dict(enumerate(LABELS))
    source = wrapped(module, wordpiece())
    for settings in ({"layers": (0, 3), "vocabulary_size": 60}, {"size": SIZE}):
        made = student(source, "classify", **settings)
        assert isinstance(made.module, MeanPooledClassifier)
        assert logits(made.module, batch_of(vocabulary=60)).shape == (3, 1, 3)
    assert torch.equal(student(source, "classify", every=2).module.head.weight, module.head.weight)


def test_trimming_needs_text():
    for texts in (None, ()):
        with pytest.raises(ModelError, match="needs training text"):
            student(loaded("bert", "classify"), "classify", texts=texts, vocabulary_size=60)


def test_positions_bind_the_tokenizer_too():
    made = student(loaded("bert", "classify"), "classify", max_positions=12)
    assert made.tokenizer.model_max_length == 12


@pytest.fixture(scope="module")
def minilm():
    settings = ModelSettings(model_name_or_path="packaged:minilm-l6-v2", pooling="mean")
    return load_model(settings, task="classify", labels=LABELS)


def test_the_real_encoder(minilm, tmp_path):
    """Two of six blocks and 9,000 of 30,522 pieces of all-MiniLM-L6-v2: bitwise the same, also after a reload."""
    assert minilm.record.parameters == 22_713_216 - 147_840 + 384 * 3 + 3
    assert minilm.record.display_name == "all-MiniLM-L6-v2"
    texts = ["The mitochondrion is the powerhouse of the cell.", "Which amendment protects the freedom of speech?"]
    made = student(minilm, "classify", texts=texts, layers=(0, 5), vocabulary_size=9000, max_positions=64)
    for ours, theirs in ((0, 0), (1, 5)):
        for weight, other in zip(
            blocks_of(made.module)[ours].parameters(), blocks_of(minilm.module)[theirs].parameters(), strict=True
        ):
            assert torch.equal(weight, other)
    assert len(made.tokenizer) == made.record.vocabulary_size == 9000
    assert made.record.parameters < minilm.record.parameters / 3
    for text in texts:
        pieces = minilm.tokenizer.convert_ids_to_tokens(minilm.tokenizer(text)["input_ids"])
        ids = made.tokenizer(text)["input_ids"]
        assert made.tokenizer.convert_ids_to_tokens(ids) == pieces
        table = made.module.encoder.get_input_embeddings().weight[ids]
        old = minilm.tokenizer(text)["input_ids"]
        assert torch.equal(table, minilm.module.encoder.get_input_embeddings().weight[old])
    save_model(made, tmp_path / "m")
    settings = ModelSettings(model_name_or_path=str(tmp_path / "m"))
    again = load_model(settings, task="classify", labels=LABELS)
    batch = batch_of(vocabulary=9000)
    assert torch.equal(logits(again.module, batch), logits(made.module, batch))
    assert again.record.fingerprint == made.record.fingerprint


def test_tables_of_a_narrow_student_are_the_best_of_their_width():
    """Eckart and Young: no table of rank 8 is nearer to the source's than the student's along its directions."""
    source = loaded("bert", "classify")
    size = SizeSettings(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, embeddings="svd"
    )
    made = student(source, "classify", size=size)
    wide = source.module.get_input_embeddings().weight.detach().double()
    narrow = made.module.get_input_embeddings().weight.detach().double()
    values = torch.linalg.svdvals(wide)
    assert torch.allclose((narrow @ narrow.T - wide @ wide.T).norm(), (values[8:] ** 2).norm(), rtol=1e-4)
    assert "tables by SVD" in made.record.display_name
    assert made.module.config.hidden_size == 8
