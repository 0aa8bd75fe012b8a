import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from potstill.compress.plan import plan_of
from potstill.compress.plan_text import diff, load_plan, save_plan, table
from potstill.core.errors import ModelError
from potstill.students.axes import axes_of, sizes_of
from potstill.students.fingerprint import count_parameters
from potstill.students.pooled import MeanPooledClassifier
from tests.compress.calibration import model
from tests.students.tiny import DECODERS, ENCODERS, tiny


def bert(vocabulary, positions, types, depth, width, neurons):
    """Weights of a BERT with a pooler, by hand (Devlin et al. 2019)."""
    embeddings = (vocabulary + positions + types) * width + 2 * width
    attention = 4 * (width * width + width) + 2 * width
    feed_forward = 2 * width * neurons + neurons + width + 2 * width
    return embeddings + depth * (attention + feed_forward) + width * width + width


def llama(vocabulary, depth, width, heads, groups, head_size, neurons):
    """Weights of a Llama with a tied head, by hand (Touvron et al. 2023)."""
    attention = 2 * width * heads * head_size + 2 * width * groups * head_size
    return vocabulary * width + depth * (attention + 3 * width * neurons + 2 * width) + width


def test_the_closed_form_of_bert():
    with torch.device("meta"):
        source = BertModel(BertConfig())
    plan = plan_of(
        source,
        blocks=range(0, 12, 2),
        channels=range(512),
        heads=[range(8)] * 6,
        neurons=[range(1000)] * 6,
    )
    assert plan.parameters_before == bert(30522, 512, 2, 12, 768, 3072) == 109_482_240
    assert plan.parameters_after == bert(30522, 512, 2, 6, 512, 1000)


def test_the_closed_form_of_smollm2():
    sizes = {"vocab_size": 49152, "hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536}
    with torch.device("meta"):
        source = LlamaForCausalLM(
            LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True)
        )
    plan = plan_of(
        source,
        blocks=range(15),
        channels=range(480),
        heads=[range(6)] * 15,
        neurons=[range(768)] * 15,
    )
    assert plan.parameters_before == llama(49152, 30, 576, 9, 3, 64, 1536) == 134_515_008
    assert plan.parameters_after == llama(49152, 15, 480, 6, 2, 64, 768)
    assert plan.after.groups == 2


@pytest.mark.parametrize("kind", [*ENCODERS, *DECODERS])
def test_every_axis_is_as_long_as_its_role_says(kind):
    source = model(kind)
    sizes, state = sizes_of(source), source.state_dict()
    axes = axes_of(source)
    assert axes.keys() == state.keys()
    for name, roles in axes.items():
        for length, role in zip(state[name].shape, roles, strict=True):
            assert role == "fixed" or length == sizes.of(role), name
    assert plan_of(source).parameters_after == count_parameters(source)


def test_a_plan_that_drops_nothing_keeps_everything():
    kept = plan_of(model("llama")).kept()
    assert (kept.width, kept.heads, kept.groups, kept.neurons) == (None, None, None, None)


def test_a_group_stays_where_one_of_its_heads_does():
    plan = plan_of(model("llama"), heads=[(0, 2), (1, 3), (0, 3), (1, 2)])
    assert [layer.groups for layer in plan.layers] == [(0, 1)] * 4
    plan = plan_of(model("llama"), heads=[(0, 1), (2, 3), (0, 1), (2, 3)])
    assert [layer.groups for layer in plan.layers] == [(0,), (1,), (0,), (1,)]


def units(**kept):
    return {name: [row] * 4 for name, row in kept.items()}


@pytest.mark.parametrize(
    ("kind", "kept", "said"),
    [
        ("llama", units(heads=()), "none stays in block 0, and so no key-value group"),
        ("llama", units(heads=(0, 1, 2)), "one number for all"),
        ("llama", units(heads=(0, 9)), "places from 0 to 3"),
        ("llama", units(heads=(2, 0)), "increasing order"),
        ("llama", units(neurons=(0, 0)), "each once"),
        ("llama", {"neurons": [(0,)]}, "1 rows for 4 blocks"),
        ("llama", {"neurons": [(0, 1), (0,), (0,), (0,)]}, r"2 in block 0, 1 in block 1.*`llama`.*same number in each"),
        ("llama", {"heads": [(0, 1), (0, 2), (0, 1), (0, 1)]}, "key-value groups: 1 in block 0, 2 in block 1"),
        ("llama", {"channels": ()}, "none stays in the model"),
        ("llama", {"channels": range(15)}, r"width 15 with 4 heads: a `llama` config refuses.*width that 4 divides"),
        ("llama", {"blocks": ()}, "at least one block"),
        ("bert", units(heads=(0,)), r"1 heads of 8 channels need a width of 8, and 16 are kept.*qwen3"),
        ("bert", {"channels": range(8)}, "2 heads of 8 channels need a width of 16, and 8 are kept"),
        ("gpt2", units(heads=(0,)), "no head size of its own"),
        ("gemma3_text", {"channels": range(12)}, "square root of its width"),
        ("electra", {"channels": range(8), "heads": [(0,)] * 4}, "projection after its embeddings"),
    ],
)
def test_what_no_config_can_say_is_refused(kind, kept, said):
    with pytest.raises(ModelError, match=said):
        plan_of(model(kind), **kept)


def test_a_bert_config_has_no_way_to_say_fewer_heads_of_the_same_size():
    """What the refusal above rests on: were the library to learn it, this test would say so."""
    values = {"hidden_size": 16, "intermediate_size": 8, "vocab_size": 20, "num_hidden_layers": 1}
    block = BertModel(BertConfig(**values, num_attention_heads=1, head_dim=8)).encoder.layer[0].attention.self
    assert (block.attention_head_size, block.query.out_features) == (16, 16)
    with pytest.raises(ValueError, match="not a multiple"):
        BertModel(BertConfig(**values, num_attention_heads=3))


def test_an_unknown_architecture_is_named():
    from transformers import AlbertConfig, AlbertModel

    config = AlbertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8, vocab_size=20, embedding_size=4)
    with pytest.raises(ModelError, match=r"`albert`.*known are bert"):
        plan_of(AlbertModel(config))


def test_the_table_says_every_size_and_the_notes():
    source = tiny("llama", "causal-lm")
    plan = plan_of(source, blocks=(0, 3), neurons=[range(12)] * 2, notes=("something was capped",))
    lines = table(plan)
    assert "| Neurons of a block | 24 | 12 | 50.0% |" in lines
    assert "| Blocks | 4 | 2 | 50.0% |" in lines
    assert f"| Weights | {plan.parameters_before:,} | {plan.parameters_after:,} |" in lines[-4]
    assert lines[-2:] == ["Blocks that stay: 0, 3.", "Note: something was capped."]


def test_a_diff_names_what_changed():
    source = tiny("llama", "causal-lm")
    old = plan_of(source, blocks=(0, 3), neurons=[range(12), range(12)])
    new = plan_of(source, blocks=(0, 2, 3), neurons=[range(11), range(11), range(13, 24)])
    lines = diff(old, new)
    assert lines[0] == "blocks: more 2"
    assert lines[1] == "block 0, neurons: less 11"
    assert lines[2].startswith("block 3, neurons: less 0, 1,")
    assert lines[2].endswith("more 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23")
    assert lines[3].startswith(f"weights: {old.parameters_after:,} -> {new.parameters_after:,} (+")
    assert diff(old, old) == []
    with pytest.raises(ModelError, match="nothing in common"):
        diff(old, plan_of(tiny("bert", "classify")))


def test_a_plan_comes_back_from_its_file(tmp_path):
    plan = plan_of(tiny("llama", "causal-lm"), blocks=(0, 3), heads=[(0, 1), (2, 3)], notes=("a note",))
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not a plan: the file"),
        ("{}", "not a plan: architecture: Field required"),
        ('{"format": "something else"}', "not a plan: format"),
    ],
)
def test_what_is_no_plan_is_refused(text, said, tmp_path):
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        load_plan(tmp_path / "plan.json")


def test_numbers_as_text_and_unknown_names_are_refused(tmp_path):
    plan = plan_of(tiny("llama", "causal-lm"))
    save_plan(plan, tmp_path / "plan.json")
    text = (tmp_path / "plan.json").read_text()
    for old, new, said in (('"depth":4', '"depth":"4"', "before.depth"), ('"notes"', '"remarks"', "remarks")):
        wrong = text.replace(old, new).replace(old.replace(":", ": "), new.replace(":", ": "))
        assert wrong != text
        (tmp_path / "plan.json").write_text(wrong)
        with pytest.raises(ModelError, match=said):
            load_plan(tmp_path / "plan.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no plan can be read here"):
        load_plan(tmp_path / "none.json")


def test_a_mean_pooled_classifier_counts_its_head():
    source = MeanPooledClassifier(tiny("bert", "classify").bert)
    assert plan_of(source).parameters_after == count_parameters(source)
    half = plan_of(source, channels=range(8), heads=[(0,)] * 4)
    assert half.parameters_after - plan_of(source.encoder, channels=range(8), heads=[(0,)] * 4).parameters_after == 27
