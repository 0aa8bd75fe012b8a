import pytest

import potstill
from tests.run.tiny_recipe import alone, make_materials, write_recipe


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A finished run of a tiny classifier, its student in fp32 for three programs."""
    root = tmp_path_factory.mktemp("target")
    (root / "materials").mkdir()
    recipe = alone(make_materials(root / "materials")) | {"export": {"formats": ["huggingface", "onnx", "openvino"]}}
    potstill.run(write_recipe(root, recipe), output_dir=root / "run")
    return root / "run"
