"""timm models as ONNX: the same outputs, batch norm visible, the batch open, names that say where they come from."""

import numpy as np
import onnxruntime as ort
import pytest

pytest.importorskip("timm", reason="timm is not installed")

import torch
import zoo

from pmsm_cli.errors import PmsmError, UnsupportedGraphError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.sources.records import Source, Weights
from pmsm_cli.sources.timm_model import OPSET, identity, open_timm

RANDOM = Weights(random=True)


def images(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 3, size, size)).astype(np.float32)


def outputs(source: Source, inputs: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(source.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"image": inputs})
    return result


def input_shape(source: Source) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in source.proto.graph.input[0].type.tensor_type.shape.dim]


@pytest.fixture(scope="module")
def plain() -> Source:
    return open_timm("pmsm_plain", RANDOM)


def refusal(error: type[PmsmError], name: str, **settings) -> str:
    with pytest.raises(error) as caught:
        open_timm(name, RANDOM, **settings)
    return str(caught.value)


# What is exported


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_the_exported_network_gives_what_the_model_gives(name):
    import timm

    source = open_timm(name, RANDOM, image_size=64)
    torch.manual_seed(0)
    size = {"img_size": 64} if "vit" in name else {}
    model = timm.create_model(name, **size).eval()
    inputs = images(3, 64)
    expected = model(torch.from_numpy(inputs)).detach().numpy()
    np.testing.assert_allclose(outputs(source, inputs), expected, atol=1e-5 * np.abs(expected).max())


def test_any_number_of_images_goes_in(plain):
    assert input_shape(plain) == ["batch", 3, 16, 16]
    inputs = images(5)
    together = outputs(plain, inputs)
    assert together.shape == (5, zoo.CLASSES)
    for count in (1, 2):
        np.testing.assert_allclose(outputs(plain, inputs[:count]), together[:count], rtol=1e-5)


def test_batch_norm_is_still_to_be_seen(plain):
    kinds = [node.op_type for node in plain.proto.graph.node]
    assert kinds.count("BatchNormalization") == 2
    assert {entry.domain: entry.version for entry in plain.proto.opset_import} == {"": OPSET}
    network = ingest(plain.proto, subject="plain")
    model = zoo.plain()
    moments = list(network.moments.values())
    assert len(moments) == 2
    np.testing.assert_allclose(moments[0].mean, model.norm.bias.detach())


def test_nodes_and_tensors_are_called_by_their_modules(plain):
    names = [node.name for node in plain.proto.graph.node]
    assert {"stem/Conv", "norm/BatchNormalization", "block.0/Conv", "head/Gemm", "Relu", "ReduceMean"} <= set(names)
    assert len(set(names)) == len(names)
    assert plain.proto.graph.output[0].name == "output"


def test_nothing_of_the_machine_it_was_made_on_is_in_the_file(plain):
    data = plain.proto.SerializeToString()
    assert b"site-packages" not in data
    assert b".py" not in data
    assert b"pkg.torch" not in data


def test_the_size_of_the_images_can_be_chosen_and_the_stages_are_announced():
    stages: list[str] = []
    assert input_shape(open_timm("pmsm_plain", RANDOM, image_size=24, on_stage=stages.append)) == ["batch", 3, 24, 24]
    assert stages == ["Reading timm:pmsm_plain", "Exporting timm:pmsm_plain"]


# What it is called and known by


def test_a_source_carries_what_it_was_written_as(plain):
    assert (plain.name, str(plain.path), plain.preset) == ("timm:pmsm_plain",) * 3
    assert plain.warnings == ()


def test_a_network_is_known_by_its_weights_whatever_they_are_called(plain):
    assert identity("pmsm_plain.made_up", zoo.plain(), (3, 16, 16)) == plain.sha256


def test_other_weights_or_another_size_or_name_make_another_network(plain):
    others = [
        identity("pmsm_plain", zoo.plain(1), (3, 16, 16)),
        identity("pmsm_plain", zoo.plain(), (3, 24, 24)),
        identity("pmsm_other", zoo.plain(), (3, 16, 16)),
    ]
    assert len({plain.sha256, *others}) == 4


def test_random_weights_follow_their_seed_and_leave_the_random_numbers_of_others_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    source = open_timm("pmsm_plain", Weights(random=True, seed=3))
    assert torch.equal(torch.rand(3), expected)
    assert source.sha256 == identity("pmsm_plain", zoo.plain(3), (3, 16, 16))


# What cannot be exported


def test_a_model_that_asks_for_the_number_of_images_reads_one_at_a_time():
    source = open_timm("pmsm_one_image", RANDOM)
    assert input_shape(source) == [1, 3, 16, 16]
    assert source.warnings == ("timm:pmsm_one_image reads one image at a time: its code does not leave the batch open",)
    assert ingest(source.proto, subject="one").image.batch == 1


def test_a_model_that_decides_by_its_values_is_refused():
    first, second = refusal(UnsupportedGraphError, "pmsm_of_values").splitlines()
    assert first == "timm:pmsm_of_values: torch cannot export it to ONNX"
    assert "data-dependent" in second


def test_a_size_that_the_model_does_not_run_on_is_refused():
    assert refusal(UnsupportedGraphError, "test_vit", image_size=100) == (
        "timm:test_vit: does not run on images of 100x100\n"
        "  AssertionError: Input height (100) should be divisible by patch size (16).\n"
        "hint: try another --image-size"
    )


def test_a_model_above_two_gigabytes_is_refused_before_memory_is_filled():
    assert refusal(UnsupportedGraphError, "pmsm_large") == (
        "timm:pmsm_large: its weights take 3.4 GB; the limit is 2 GB"
    )
