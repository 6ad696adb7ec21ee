"""Ingesting in tests: a network and its clean form side by side in onnxruntime, or the refusal's text."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny
from onnx import helper

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.network import Network

IMAGES = tiny.images(3)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def session_of(proto: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto | ir.Model, inputs: np.ndarray = IMAGES) -> list[np.ndarray]:
    proto = model if isinstance(model, onnx.ModelProto) else ir.to_proto(model)
    session = session_of(proto)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def with_weights_as_inputs(proto: onnx.ModelProto) -> onnx.ModelProto:
    """As every file was before IR version 4: each initialiser is listed among the inputs too."""
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return proto


def ingested(proto: onnx.ModelProto, inputs: np.ndarray = IMAGES, *, tolerance: float = 1e-5) -> Network:
    """The clean network, after checking that it gives what the original gives, under the same names."""
    expected = run(proto, inputs)
    network = ingest(proto, subject="net.onnx")
    assert network.outputs == tuple(output.name for output in proto.graph.output)
    assert not network.model.graph.initializers.keys() & {value.name for value in network.model.graph.inputs}
    for want, got in zip(expected, run(network.model, inputs), strict=True):
        assert want.shape == got.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return network


def op_types(network: Network) -> list[str]:
    return [node.op_type for node in network.model.graph]


def refusal(proto: onnx.ModelProto) -> str:
    with pytest.raises(UnsupportedGraphError) as refused:
        ingest(proto, subject="net.onnx")
    return str(refused.value)


# The four tensors of a batch norm of three channels.
BN = {
    "g": tiny.weights(3, scale=0.5) + 1,
    "b": tiny.weights(3, seed=1),
    "m": tiny.weights(3, seed=2),
    "v": np.abs(tiny.weights(3, seed=3)) + floats(0.5),
}
