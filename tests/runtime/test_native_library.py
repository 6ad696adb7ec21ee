"""The native neuron operators against the specification and the function bodies, and what happens without them."""

import ctypes
import functools
import itertools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from pmsm_cli.neuron.coding import Coding, CodingStep, later_negative_levels
from pmsm_cli.neuron.onnx_function import neuron_function, neuron_step_function
from pmsm_cli.neuron.reference import NeuronState, initial_state, step
from pmsm_cli.runtime import library as native
from pmsm_cli.runtime.library import (
    LIBRARY_VERSION,
    NativeLibrary,
    find_library,
    inspect_library,
    library_status,
    register,
)

Floats = npt.NDArray[np.float32]

OPSET = 20
FIRST = "spikes = ai.pmsm.PolarityNeuron <negative_levels = {n}, positive_levels = {p}> (value, threshold)"
LATER = (
    "spikes, emitted_now = ai.pmsm.PolarityNeuronStep <negative_levels = {n}, positive_levels = {p}> "
    "(value, threshold, emitted, horizon, quantum)"
)

LIBRARY = find_library()
needs_library = pytest.mark.skipif(LIBRARY is None, reason=f"no native library: {library_status().reason}")


def session(
    nodes: str, inputs: str, outputs: str, *, library: NativeLibrary | None, threads: int = 1
) -> onnxruntime.InferenceSession:
    """A network of one line of ONNX text that carries both function bodies; tensors have no declared shape."""
    text = f'<ir_version: 10, opset_import: ["": {OPSET}, "ai.pmsm": 1]>\n' + (
        f"network ({', '.join('float ' + name for name in inputs.split())})"
        f" => ({', '.join('float ' + name for name in outputs.split())}) {{ {nodes} }}"
    )
    model = onnx.parser.parse_model(text)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")
    functions = (neuron_function(OPSET), neuron_step_function(OPSET))
    model.functions.extend(ir.to_proto(function) for function in functions)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors that a test provokes are not for the terminal
    if library is not None:
        register(options, library)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@functools.cache
def first_session(levels: tuple[int, int], *, use_library: bool, threads: int = 1) -> onnxruntime.InferenceSession:
    nodes = FIRST.format(n=levels[0], p=levels[1])
    return session(nodes, "value threshold", "spikes", library=LIBRARY if use_library else None, threads=threads)


@functools.cache
def later_session(levels: tuple[int, int], *, use_library: bool, threads: int = 1) -> onnxruntime.InferenceSession:
    nodes = LATER.format(n=levels[0], p=levels[1])
    inputs = "value threshold emitted horizon quantum"
    library = LIBRARY if use_library else None
    return session(nodes, inputs, "spikes emitted_now", library=library, threads=threads)


def run_first(
    value: Floats, threshold: Floats, levels: tuple[int, int], *, use_library: bool, threads: int = 1
) -> Floats:
    neuron = first_session(levels, use_library=use_library, threads=threads)
    (spikes,) = neuron.run(None, {"value": np.asarray(value), "threshold": np.asarray(threshold)})
    return np.asarray(spikes)


def run_later(
    value: Floats,
    threshold: Floats,
    emitted: Floats,
    step_numbers: CodingStep,
    levels: tuple[int, int],
    *,
    use_library: bool,
    threads: int = 1,
) -> tuple[Floats, Floats]:
    neuron = later_session(levels, use_library=use_library, threads=threads)
    feeds = {"value": value, "threshold": threshold, "emitted": emitted}
    feeds |= {"horizon": np.float32(step_numbers.horizon), "quantum": np.float32(step_numbers.quantum)}
    spikes, emitted_now = neuron.run(None, {name: np.asarray(array) for name, array in feeds.items()})
    return np.asarray(spikes), np.asarray(emitted_now)


def run_steps(
    value: Floats, threshold: Floats, levels: tuple[int, int], coding: Coding, timesteps: int, *, use_library: bool
) -> list[tuple[Floats, Floats]]:
    """Spikes and emitted count of each timestep; the value stays the same."""
    later_levels = (later_negative_levels(*levels), levels[1])
    spikes = run_first(value, threshold, levels, use_library=use_library)
    steps = [(spikes, spikes)]
    for timestep in range(2, timesteps + 1):
        emitted = steps[-1][1]
        steps.append(run_later(value, threshold, emitted, coding.at(timestep), later_levels, use_library=use_library))
    return steps


def specified_steps(
    value: Floats, threshold: Floats, levels: tuple[int, int], coding: Coding, timesteps: int
) -> list[tuple[Floats, Floats]]:
    steps, state = [], initial_state(value)
    for _ in range(timesteps):
        spikes, state = step(
            value, state, threshold, negative_levels=levels[0], positive_levels=levels[1], coding=coding
        )
        steps.append((spikes, state.emitted))
    return steps


def awkward_values(shape: tuple[int, ...], threshold: Floats, seed: int = 0) -> Floats:
    """Values over the whole range of counts: random ones, exact ties, the neighbours of ties, and every special one."""
    generator = np.random.default_rng(seed)
    value = generator.normal(scale=6, size=shape).astype(np.float32)
    ties = ((generator.integers(-20, 20, size=shape) + 0.5) * threshold).astype(np.float32)
    beside = np.nextafter(ties, generator.choice([-np.inf, np.inf], size=shape).astype(np.float32))
    largest, smallest = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    specials = np.array(
        [
            np.inf,
            -np.inf,
            np.nan,
            -np.nan,
            0.0,
            -0.0,
            largest,
            -largest,
            smallest,
            -smallest,
            1e-40,
            8388609.0,
            4194304.5,
        ],
        np.float32,
    )
    special = generator.choice(specials, size=shape)
    return np.choose(generator.integers(0, 4, size=shape), [value, ties, beside, special]).astype(np.float32)


def random_thresholds(shape: tuple[int, ...], seed: int = 1) -> Floats:
    """Thresholds of which about half are powers of two, so that ties are exact."""
    generator = np.random.default_rng(seed)
    powers = np.exp2(generator.integers(-3, 3, size=shape))
    return np.where(generator.random(shape) < 0.5, powers, generator.uniform(0.05, 3, size=shape)).astype(np.float32)


def assert_same_everywhere(
    value: Floats, threshold: Floats, levels: tuple[int, int], coding: Coding = Coding.REFINE, timesteps: int = 2
) -> None:
    """The library gives the counts of the specification and of the function body, in the shape of the latter."""
    expected = specified_steps(value, threshold, levels, coding, timesteps)
    body = run_steps(value, threshold, levels, coding, timesteps, use_library=False)
    steps = run_steps(value, threshold, levels, coding, timesteps, use_library=True)
    for timestep, results in enumerate(zip(steps, expected, body, strict=True), start=1):
        for ours, specified, function in zip(*results, strict=True):
            assert ours.dtype == np.float32
            assert ours.shape == function.shape
            np.testing.assert_array_equal(ours, specified, err_msg=f"t = {timestep}")
            np.testing.assert_array_equal(ours, function, err_msg=f"t = {timestep}")


@needs_library
@pytest.mark.parametrize("levels", [(0, 1), (1, 1), (0, 15), (7, 8), (3, 0), (0, 0), (128, 127), (2**20, 2**20)])
def test_the_library_emits_what_the_specification_says(levels: tuple[int, int]) -> None:
    for threshold in (np.array(1, np.float32), np.array(0.3, np.float32), np.array(1e-39, np.float32)):
        assert_same_everywhere(awkward_values((7, 301), threshold), threshold, levels)
    threshold = random_thresholds((301,))
    assert_same_everywhere(awkward_values((7, 301), threshold), threshold, levels)


@needs_library
@pytest.mark.parametrize("levels", [(2**20, 2**20), (2**22 + 1, 2**22 + 1), (2**23 + 1, 2**23 + 3), (2**40, 2**40)])
def test_huge_counts_are_rounded_to_even_without_loss(levels: tuple[int, int]) -> None:
    exponents = np.exp2(np.arange(18, 27, dtype=np.float32))
    near = np.concatenate([exponents + offset for offset in np.arange(-3, 3.25, 0.25, dtype=np.float32)])
    value = np.concatenate([near, -near]).astype(np.float32)
    assert_same_everywhere(value, np.array(1, np.float32), levels)


@needs_library
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("threshold", [0.0, -0.0, -1.5, np.inf, -np.inf, np.nan])
def test_thresholds_that_no_calibration_gives_still_agree(threshold: float) -> None:
    value = awkward_values((500,), np.array(1, np.float32))
    assert_same_everywhere(value, np.array(threshold, np.float32), (3, 5))


SHAPES = [(), (1,), (5,), (40,), (3, 17), (20, 1, 33), (2, 3, 5, 7), (2, 19, 3, 3), (1, 3, 20, 4, 2), (2, 1, 1, 1, 1)]


@needs_library
@pytest.mark.parametrize("shape", SHAPES)
def test_thresholds_of_every_axis_agree(shape: tuple[int, ...]) -> None:
    rank = len(shape)
    aligned = [tuple(shape[a] if a == axis else 1 for a in range(rank)) for axis in range(rank)]
    for threshold_shape in {(), (1,), (1,) * rank, shape, *aligned, *(shape[axis:] for axis in range(rank))}:
        threshold = random_thresholds(threshold_shape)
        assert_same_everywhere(awkward_values(shape, threshold), threshold, (4, 15))
    for axis in range(rank):  # the same thresholds, without the ones before them
        threshold = random_thresholds((shape[axis], *(1,) * (rank - axis - 1)))
        assert_same_everywhere(awkward_values(shape, threshold), threshold, (4, 15))


@needs_library
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4), (0,)])
def test_an_empty_tensor_gives_an_empty_tensor(shape: tuple[int, ...]) -> None:
    channels = (shape[1], 1, 1) if len(shape) == 4 else (1,)
    for threshold in (np.ones((), np.float32), np.ones(channels, np.float32)):
        value = np.zeros(shape, np.float32)
        assert run_first(value, threshold, (1, 1), use_library=True).shape == shape
        steps = run_steps(value, threshold, (1, 1), Coding.RATE, 2, use_library=True)
        assert [array.shape for array in steps[-1]] == [shape, shape]


@needs_library
@pytest.mark.parametrize("coding", list(Coding))
@pytest.mark.parametrize("levels", [(0, 3), (5, 4), (2**20, 2**20)])
@pytest.mark.parametrize("threshold_shape", [(), (9, 1, 1), (1, 9, 6, 7), (7,)])
def test_eight_timesteps_follow_the_specification(
    coding: Coding, levels: tuple[int, int], threshold_shape: tuple[int, ...]
) -> None:
    threshold = random_thresholds(threshold_shape)
    value = awkward_values((3, 9, 6, 7), threshold)
    assert_same_everywhere(value, threshold, levels, coding, timesteps=8)


@needs_library
def test_a_step_agrees_on_states_that_no_run_reaches() -> None:
    special = np.array([0, -0.0, 1, -2.5, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, -1e-40, 0.5], np.float32)
    value, emitted = (np.ascontiguousarray(grid) for grid in np.meshgrid(special, special))
    for horizon, quantum, threshold in itertools.product(special, special, special[[2, 3, 9, 11]]):
        numbers = CodingStep(horizon=horizon, quantum=quantum)
        ours = run_later(value, threshold, emitted, numbers, (3, 4), use_library=True)
        body = run_later(value, threshold, emitted, numbers, (3, 4), use_library=False)
        np.testing.assert_array_equal(ours, body, err_msg=f"{horizon=} {quantum=} {threshold=}")


@needs_library
@pytest.mark.parametrize("threshold_shape", [(), (13, 1, 1), (5,), (91, 5)])
@pytest.mark.parametrize("threads", [1, 2])
def test_tensors_cut_over_threads_agree(threshold_shape: tuple[int, ...], threads: int) -> None:
    threshold = random_thresholds(threshold_shape)
    value = awkward_values((37, 13, 91, 5), threshold)
    ((expected, _),) = specified_steps(value, threshold, (7, 9), Coding.REFINE, 1)
    spikes = run_first(value, threshold, (7, 9), use_library=True, threads=threads)
    np.testing.assert_array_equal(spikes, expected)
    state = NeuronState(expected, 1)
    expected, state = step(value, state, threshold, negative_levels=7, positive_levels=9, coding=Coding.RATE)
    ours = run_later(value, threshold, spikes, Coding.RATE.at(2), (9, 9), use_library=True, threads=threads)
    np.testing.assert_array_equal(ours, [expected, state.emitted])


@needs_library
def test_outputs_that_take_the_place_of_inputs_are_right() -> None:
    nodes = "doubled = Add (value, value) before = Neg (emitted) spikes_x, emitted_x = " + (
        LATER.format(n=3, p=4).split(" = ", 1)[1].replace("(value", "(doubled").replace("emitted,", "before,")
    )
    nodes += " spikes = Neg (spikes_x) emitted_now = Neg (emitted_x)"
    inputs, outputs = "value threshold emitted horizon quantum", "spikes emitted_now"
    threshold = random_thresholds((4, 1))
    value = awkward_values((3, 4, 50), threshold)
    feeds = {"value": value, "threshold": threshold, "emitted": np.round(np.nan_to_num(value, posinf=0, neginf=0))}
    feeds |= {"horizon": np.array(2, np.float32), "quantum": np.array(0.5, np.float32)}
    ours = session(nodes, inputs, outputs, library=LIBRARY).run(None, feeds)
    body = session(nodes, inputs, outputs, library=None).run(None, feeds)
    np.testing.assert_array_equal(ours, body)


@needs_library
@pytest.mark.parametrize(
    ("value", "threshold", "message"),
    [
        ((2, 3, 4), (3,), "a threshold of shape [3] does not fit a value of shape [2,3,4]"),
        ((2, 3, 4), (2, 1, 4), "a threshold of shape [2,1,4] does not fit a value of shape [2,3,4]"),
        ((2, 1, 4), (3, 1), "a threshold of shape [3,1] does not fit a value of shape [2,1,4]"),
        ((4,), (2, 4), "a threshold of shape [2,4] does not fit a value of shape [4]"),
        ((), (2,), "a threshold of shape [2] does not fit a value of shape []"),
        ((3, 4), (0,), "a threshold of shape [0] does not fit a value of shape [3,4]"),
    ],
)
def test_a_threshold_that_does_not_fit_is_an_error_with_both_shapes(
    value: tuple[int, ...], threshold: tuple[int, ...], message: str
) -> None:
    with pytest.raises(Exception, match="it must have one element, or the value's size on one axis") as caught:
        run_first(np.ones(value, np.float32), np.ones(threshold, np.float32), (1, 1), use_library=True)
    assert message in str(caught.value)


@needs_library
@pytest.mark.parametrize(
    ("wrong", "shape", "message"),
    [
        ("emitted", (4, 3), "emitted has shape [4,3], but the value has shape [3,4]"),
        ("emitted", (), "emitted has shape [], but the value has shape [3,4]"),
        ("horizon", (4,), "horizon must have one element, but its shape is [4]"),
        ("quantum", (0,), "quantum must have one element, but its shape is [0]"),
    ],
)
def test_a_state_that_does_not_fit_is_an_error(wrong: str, shape: tuple[int, ...], message: str) -> None:
    shapes = {"value": (3, 4), "threshold": (), "emitted": (3, 4), "horizon": (), "quantum": ()} | {wrong: shape}
    feeds = {name: np.ones(size, np.float32) for name, size in shapes.items()}
    with pytest.raises(Exception, match="PolarityNeuronStep") as caught:
        later_session((1, 1), use_library=True).run(None, feeds)
    assert message in str(caught.value)


@needs_library
def test_onnxruntime_knows_the_shape_behind_the_neuron() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "ai.pmsm": 1]> network (float[batch,3,8] value) => (float[a,b,c] y)'
        " <float threshold = {0.5}> {" + FIRST.format(n=1, p=2) + " y = Neg (spikes) }"
    )
    options = onnxruntime.SessionOptions()
    register(options, LIBRARY)
    run = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert run.get_outputs()[0].shape[1:] == [3, 8]


@needs_library
def test_an_onnxruntime_without_our_interface_gets_no_operators_and_no_crash() -> None:
    get_api = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)(lambda version: None)
    base = (ctypes.c_void_p * 2)(ctypes.cast(get_api, ctypes.c_void_p), None)
    register_operators = ctypes.CDLL(str(LIBRARY.path)).RegisterCustomOps
    register_operators.argtypes, register_operators.restype = (ctypes.c_void_p, ctypes.c_void_p), ctypes.c_void_p
    assert register_operators(None, base) is None


@needs_library
def test_a_missing_attribute_is_an_error_when_the_session_is_made() -> None:
    nodes = "spikes = ai.pmsm.PolarityNeuron <positive_levels = 1> (value, threshold)"
    with pytest.raises(Exception, match="negative_levels"):
        session(nodes, "value threshold", "spikes", library=LIBRARY)


def test_the_function_body_serves_when_the_library_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PMSM_NATIVE", "0")
    assert find_library() is None
    assert library_status() == native.LibraryStatus(available=False, path=None, reason="switched off by PMSM_NATIVE=0")
    spikes = run_first(np.array([2.5, -9], np.float32), np.array(1, np.float32), (1, 3), use_library=False)
    assert spikes.tolist() == [2, -1]


@needs_library
def test_a_library_of_another_version_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LIBRARY_VERSION", LIBRARY_VERSION + 1)
    status = inspect_library(LIBRARY.path)
    assert not status.available
    there, needed = LIBRARY_VERSION, LIBRARY_VERSION + 1
    assert status.reason == f"version {there}, where this pmsm needs version {needed}: install pmsm again"


def test_a_file_that_is_no_library_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "_native.so"
    path.write_bytes(b"not a library")
    status = inspect_library(path)
    assert not status.available
    assert status.path == path
    assert status.reason.startswith("cannot be loaded: ")


def test_a_library_that_is_not_ours_is_not_used() -> None:
    import _ctypes

    if not getattr(_ctypes, "__file__", None):
        pytest.skip("this Python has _ctypes built in")
    status = inspect_library(Path(_ctypes.__file__))
    assert status.reason == "not a library of ours: it has no version"


def test_an_old_onnxruntime_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.19.2")
    assert inspect_library(tmp_path).reason == "onnxruntime 1.19.2 is older than 1.20"


def test_a_missing_library_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PMSM_NATIVE", raising=False)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "library.py"))
    native._status_beside_this_module.cache_clear()
    try:
        assert library_status().reason == "not built: no C++ compiler when pmsm was installed"
        assert find_library() is None
    finally:
        native._status_beside_this_module.cache_clear()
