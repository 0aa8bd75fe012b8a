"""Sizes without weights: real models come out with the number of parameters that they have."""

import struct

import pytest
from transformers import AutoConfig

from potstill.core.errors import ModelError
from potstill.students.fingerprint import count_parameters
from potstill.students.gguf_header import gguf_header
from potstill.students.packaged import find_packaged
from potstill.students.settings import ModelSettings, StudentSettings
from potstill.students.shape import ModelShape, of_config, shape_of, student_shape
from tests.students import tiny

GEMMA = {
    "model_type": "gemma3_text", "num_hidden_layers": 18, "hidden_size": 640, "intermediate_size": 2048,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 262_144, "rms_norm_eps": 1e-6,
}  # fmt: skip


def named(name):
    return ModelSettings(model_name_or_path=name)


@pytest.mark.parametrize(
    ("name", "millions"), [("packaged:smollm2-135m-instruct", 134.5), ("packaged:minilm-l6-v2", 22.71)]
)
def test_real_models(name, millions):
    """Counted on the loaded models. The first is read from the header of its .gguf file."""
    assert shape_of(named(name), {}).parameters() / 1e6 == pytest.approx(millions, rel=0.01)


def test_gemma_by_its_config():
    assert of_config(GEMMA).parameters() / 1e6 == pytest.approx(268.1, rel=0.001)


@pytest.mark.parametrize("kind", tiny.DECODERS)
def test_every_decoder(kind, tmp_path):
    """Tiny models: norms and biases weigh more than in real ones."""
    module = tiny.tiny(kind, "causal-lm")
    module.save_pretrained(tmp_path)
    assert shape_of(named(str(tmp_path)), {}).parameters() == pytest.approx(count_parameters(module), rel=0.12)
    assert AutoConfig.from_pretrained(tmp_path).vocab_size == shape_of(named(str(tmp_path)), {}).vocabulary


def test_what_a_student_is_cut_to():
    def cut(**settings):
        return student_shape(StudentSettings(model_name_or_path="stage:tutor", **settings), {"tutor": of_config(GEMMA)})

    assert cut(layers=(0, 3, 5)).layers == 3
    assert cut(every=4).layers == 5
    assert cut(intermediate_size=100).intermediate == 100
    assert cut(vocabulary_size=1000).vocabulary == 1000
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    assert cut(size=size) == ModelShape(2, 64, 262_144, 4, 4, 16, 128, True, True)


@pytest.mark.parametrize("text", ["", "[]", "{", "{}", '{"hidden_size": 4}', "[" * 100_000, '{"hidden_size": "x"}'])
def test_a_config_without_sizes(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match="sizes cannot be read"):
        shape_of(named(str(tmp_path)), {})


@pytest.mark.parametrize("name", ["nobody/nothing", "../../etc/passwd", "a b c", "missing.gguf"])
def test_what_is_not_here(name):
    with pytest.raises(ModelError):
        shape_of(named(name), {})


class TestGguf:
    def test_a_cut_header_at_any_byte(self, tmp_path):
        whole = find_packaged("smollm2-135m-instruct")[1].read_bytes()[:4000]
        for cut in (0, 3, 4, 20, 24, 25, 60, 500, 3999):
            (tmp_path / "x.gguf").write_bytes(whole[:cut])
            with pytest.raises(ModelError, match="cannot be read"):
                gguf_header(tmp_path / "x.gguf")

    @pytest.mark.parametrize(
        "raw",
        [
            b"<html>" * 10,
            struct.pack("<4sIQQ", b"GGUF", 9, 0, 0),
            struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0),
            struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, 1 << 60) + b"x" * 8,
            struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 8, 1 << 60),
            struct.pack("<4sIQQQ1sIIQ", b"GGUF", 3, 0, 1, 1, b"k", 9, 4, 1 << 62),
            struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"k", 77),
            struct.pack("<4sIQQQ1sI", b"GGUF", 3, 1, 0, 1, b"t", 1 << 30),
        ],
    )
    def test_hostile_headers(self, tmp_path, raw):
        (tmp_path / "x.gguf").write_bytes(raw)
        with pytest.raises(ModelError, match="cannot be read"):
            gguf_header(tmp_path / "x.gguf")
