"""Weights as one row of inputs for each output, and back, whatever the layout."""

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from pmsm_cli.graph.synapse import synapse_of
from pmsm_cli.graph.weight_rows import from_rows, inputs_of, weight_rows

# what reads x -> the weights that have 3 outputs of 4 inputs each
LAYOUTS = {
    "y = MatMul (x, w)": (4, 3),
    "y = MatMul (w, x)": (3, 4),
    "y = Gemm (x, w)": (4, 3),
    "y = Gemm <transB = 1> (x, w)": (3, 4),
    "y = Gemm (w, x)": (3, 4),
    "y = Gemm <transA = 1> (w, x)": (4, 3),
    "y = Gemm <transB = 1> (w, x)": (3, 4),
}


@pytest.mark.parametrize("text", LAYOUTS)
def test_every_output_has_a_row_of_its_inputs(text: str):
    weights = tiny.weights(*LAYOUTS[text])
    model = ir.from_proto(tiny.model(f"g (float[A, B] x) => (float[C, D] y) {{ {text} }}", w=weights))
    synapse = synapse_of(model.graph[0])
    assert synapse is not None
    assert inputs_of(synapse) == 4
    rows = weight_rows(synapse)
    np.testing.assert_array_equal(rows, weights if weights.shape[0] == 3 else weights.T)
    np.testing.assert_array_equal(from_rows(synapse, rows), weights)
