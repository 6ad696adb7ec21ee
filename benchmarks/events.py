"""From which share of silent inputs on a product driven by events is faster: the fourth table of docs/speed.md.

    python benchmarks/events.py --threads 2

Layers of VGG-16 at batch 1, on random spikes of the stated density: onnxruntime's dense product and the native
library's, in floats and in integers, each in a session of its own, in turn.
"""

import argparse
import time

import numpy as np
import onnxruntime
from machine import describe
from onnx import TensorProto, helper, numpy_helper

from pmsm_cli.runtime.library import find_library, register

LAYERS = ((25088, 4096), (4096, 4096))
DENSITIES = (1.0, 0.5, 0.4, 0.3, 0.2, 0.1)
PRODUCTS = {
    "float, dense": ("Gemm", "", np.float32),
    "float, by events": ("EventProduct", "ai.pmsm", np.float32),
    "integers, dense": ("MatMulIntegerToFloat", "com.microsoft", np.uint8),
    "integers, by events": ("EventProductInteger", "ai.pmsm", np.uint8),
}


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    print(f"{describe()}; {arguments.threads} thread(s), batch 1, {arguments.runs} runs in turn, milliseconds\n")
    print(f"| inputs x outputs | product | {' | '.join(f'{100 * each:.0f} %' for each in DENSITIES)} |")
    print(f"|---|---|{'--:|' * len(DENSITIES)}")
    for inputs, outputs in LAYERS:
        sessions = {name: _session(*product, inputs, outputs, arguments.threads) for name, product in PRODUCTS.items()}
        rows: dict[str, list[str]] = {name: [] for name in PRODUCTS}
        for density in DENSITIES:
            taken = _taken(sessions, inputs, density, arguments.runs)
            for name, seconds in taken.items():
                rows[name].append(f"{1000 * float(np.median(seconds)):.2f}")
        for name, cells in rows.items():
            print(f"| {inputs} x {outputs} | {name} | {' | '.join(cells)} |", flush=True)


def _session(
    op_type: str, domain: str, kind: type, inputs: int, outputs: int, threads: int
) -> onnxruntime.InferenceSession:
    random = np.random.default_rng(0)
    floats = kind is np.float32
    weights = random.normal(size=(inputs, outputs)).astype(np.float32) if floats else None
    small = random.integers(-127, 128, (inputs, outputs)).astype(np.int8)
    constants = {
        "w": weights if weights is not None else small,
        "bias": np.zeros(outputs, np.float32),
        "one": np.ones((), np.float32),
        "zero": np.zeros(() if domain == "com.microsoft" else 1, np.uint8),
        "zero8": np.zeros((), np.int8),
    }
    names = {
        "Gemm": ["x", "w", "bias"],
        "EventProduct": ["x", "w", "bias"],
        "MatMulIntegerToFloat": ["x", "w", "one", "one", "zero", "zero8", "bias"],
        "EventProductInteger": ["x", "w", "zero", "one", "bias"],
    }[op_type]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], domain=domain)],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT if floats else TensorProto.UINT8, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in names],
    )
    opsets = [helper.make_opsetid(each, version) for each, version in (("", 20), ("ai.pmsm", 1), ("com.microsoft", 1))]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    library = find_library()
    assert library is not None, "the native library is not there"
    register(options, library)
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _taken(
    sessions: dict[str, onnxruntime.InferenceSession], inputs: int, density: float, runs: int
) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    for run in range(runs):
        random = np.random.default_rng(run)
        spikes = random.integers(1, 16, (1, inputs)) * (random.random((1, inputs)) < density)
        for name, session in sessions.items():
            given = spikes.astype(PRODUCTS[name][2])
            start = time.perf_counter()
            session.run(None, {"x": given})
            taken[name].append(time.perf_counter() - start)
    return taken


if __name__ == "__main__":
    main()
