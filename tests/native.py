"""One operator of the native library as a network of its own."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from pmsm_cli.runtime.library import find_library, register

_KINDS = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
}


def run_operator(
    op_type: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, str] | Sequence[tuple[str, str]],
    *,
    constant: Collection[str] = (),
    threads: int = 2,
    **attributes: int,
) -> list[np.ndarray]:
    """What it gives for inputs in order, of which the named ones are constants; `outputs` are names with their types.

    Inputs whose names begin with "none" are left out, and so are outputs without a name.
    """
    results = list(outputs.items()) if isinstance(outputs, Mapping) else outputs
    order = ["" if name.startswith("none") else name for name in inputs]
    inputs = {name: array for name, array in inputs.items() if name in order}
    fed = {name: array for name, array in inputs.items() if name not in constant}
    given = [helper.make_tensor_value_info(name, _KINDS[str(array.dtype)], None) for name, array in fed.items()]
    graph = helper.make_graph(
        [helper.make_node(op_type, order, [name for name, _ in results], domain="ai.pmsm", **attributes)],
        "one",
        given,
        [helper.make_tensor_value_info(name, _KINDS[kind], None) for name, kind in results if name],
        [numpy_helper.from_array(inputs[name], name) for name in constant if name in inputs],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.pmsm", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors that a test provokes are not for the terminal
    library = find_library()
    assert library is not None
    register(options, library)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, fed)
