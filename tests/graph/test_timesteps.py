"""The spiking graph, flat and over timesteps, against a plain simulation of the method's equations.

The simulation knows nothing of membranes: at each step it takes the running value A_t of every site and evaluates the
source's own operators on it, U_t = W A_t + b, Z_t = f(U_t). Values and weights are multiples of powers of two where
the coding is `refine`, so that float32 is exact and the spikes must be the same, ties included. `rate` divides by t:
there the images are drawn such that no value comes near a tie.
"""

import functools
import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import spiking
import tiny

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.insert import insert_neurons, spikes_name
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.scan import PER_STEP, SCAN_NAME
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import Site, SitePlan, find_sites
from pmsm_cli.graph.unroll import unroll_timesteps
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.neuron.parameters import NeuronParameters
from pmsm_cli.neuron.reference import initial_state, running_value, step
from pmsm_cli.runtime.library import find_library
from pmsm_cli.runtime.session import model_bytes, open_session

Floats = np.ndarray
SIZE = 6


def dyadic(*shape: int, seed: int = 0, unit: float = 0.25, most: int = 4) -> Floats:
    """Multiples of a power of two."""
    return (np.random.default_rng((seed, *shape)).integers(-most, most + 1, shape) * unit).astype(np.float32)


def small_network(*, batch: int | str = "N", opset: int = 20) -> onnx.ModelProto:
    """Convolutions with bias, Relu, a residual sum, max pooling, Gemm; outputs: scores, a site, the analog part."""
    return tiny.model(
        f"""
        small (float[{batch}, 3, {SIZE}, {SIZE}] image)
          => (float[{batch}, 5] scores, float[{batch}, 4, {SIZE}, {SIZE}] b, float[{batch}, 3] colour) {{
            a = Conv <pads = [1, 1, 1, 1]> (image, w1, b1)
            b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1], group = 2> (b, w2, b2)
            d = Add (c, b)
            e = Conv <strides = [1, 2]> (d, w3, b3)
            f = Relu (e)
            g = MaxPool <kernel_shape = [2, 3], strides = [2, 2]> (f)
            h = Flatten (g)
            scores = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (h, w4, b4)
            pooled = GlobalMaxPool (image)
            colour = Flatten (pooled)
        }}""",
        opset=opset,
        w1=dyadic(4, 3, 3, 3),
        b1=dyadic(4, unit=0.125),
        w2=dyadic(4, 2, 3, 3),
        b2=dyadic(4, unit=0.125, seed=1),
        w3=dyadic(6, 4, 2, 1, unit=0.125),
        b3=dyadic(6, unit=0.125),
        w4=dyadic(5, 12),
        b4=dyadic(5, unit=0.125),
    )


def product_network() -> onnx.ModelProto:
    """Attention without softmax: products of two spiking tensors, one of them also read by weights."""
    return tiny.model(
        f"""
        products (float[N, 3, {SIZE}, {SIZE}] image) => (float[N, 4, 9] scores) {{
            a = Conv <strides = [2, 2]> (image, w)
            t = Reshape (a, s)
            q = MatMul (wq, t)
            k = Transpose <perm = [0, 2, 1]> (t)
            p = MatMul (k, q)
            r = Relu (p)
            scores = MatMul (q, r)
        }}""",
        w=dyadic(4, 3, 2, 2),
        wq=dyadic(4, 4),
        s=np.array([0, 4, 9]),
    )


def plan_and_network(proto: onnx.ModelProto, *, spiking_input: bool = False) -> tuple[Network, SitePlan]:
    network = ingested(proto.SerializeToString())
    return network, find_sites(network, shapes_of(network), spiking_input=spiking_input)


@functools.cache
def ingested(data: bytes) -> Network:
    """Shared by the tests: nothing that follows may change it."""
    return ingest(onnx.load_model_from_string(data), subject="net.onnx")


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    return infer_shapes(network.model, network.image.shape(height=SIZE, width=SIZE))


def neurons(plan: SitePlan, *, n: int, p: int, per_channel: bool, exact: bool = True) -> dict[str, NeuronParameters]:
    chosen = {}
    for index, site in enumerate(plan.sites):
        random = np.random.default_rng(index)
        count = site.channels if per_channel and site.channel_axis is not None else 1
        theta = 2.0 ** random.integers(-2, 1, count) if exact else random.uniform(0.3, 1.2, count)
        threshold = np.asarray(theta if count > 1 else theta[0], np.float32)
        chosen[site.name] = NeuronParameters(threshold=threshold, negative_levels=n, positive_levels=p)
    return chosen


@functools.cache
def single_op(node: ir.Node) -> ort.InferenceSession:
    """One operator of the source on its own."""
    inputs = [onnx.helper.make_tensor_value_info(v.name, int(v.dtype or 1), None) for v in node.inputs if v is not None]
    outputs = [onnx.helper.make_empty_tensor_value_info(v.name) for v in node.outputs]
    graph = onnx.helper.make_graph([ir.to_proto(node)], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    return session_of(model.SerializeToString())


def session_of(data: bytes) -> ort.InferenceSession:
    """An onnxruntime that knows nothing of us; one thread, for nothing here is worth a second."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


class Simulation:
    """The equations of the method, written down one after the other; `nearest_tie` in spikes, over all steps."""

    def __init__(self, network: Network, plan: SitePlan, parameters: dict[str, NeuronParameters], coding: Coding):
        self.network, self.parameters, self.coding = network, parameters, coding
        self.sites = {site.name: site for site in plan.sites}
        self.operands = {(reader.node, reader.operand): site for site in plan.sites for reader in site.readers}
        self.nearest_tie = 0.5

    def run(self, images: Floats, timesteps: int) -> tuple[list[dict[str, Floats]], list[dict[str, Floats]]]:
        """The source's values and the spikes of every site, at each step."""
        states, all_values, all_spikes = {}, [], []
        for t in range(1, timesteps + 1):
            values = {self.network.image.name: images}
            values |= {name: v.const_value.numpy() for name, v in self.network.model.graph.initializers.items()}
            running, spikes = {}, {}

            def emit(name: str, t=t, values=values, running=running, spikes=spikes) -> None:
                theta = self._threshold(self.sites[name])
                state = states.get(name) or initial_state(values[name])
                self._watch_ties(values[name], state, theta, t)
                levels = self.parameters[name]
                spikes[name], states[name] = step(
                    values[name],
                    state,
                    theta,
                    negative_levels=levels.negative_levels,
                    positive_levels=levels.positive_levels,
                    coding=self.coding,
                )
                running[name] = running_value(states[name], theta, self.coding)

            if self.network.image.name in self.sites:
                emit(self.network.image.name)
            for node in self.network.model.graph:
                feeds = {
                    v.name: running[v.name] if (node.name, index) in self.operands else values[v.name]
                    for index, v in enumerate(node.inputs)
                    if v is not None
                }
                for output, result in zip(node.outputs, single_op(node).run(None, feeds), strict=True):
                    values[output.name] = result
                    if output.name in self.sites:
                        emit(output.name)
            all_values.append(values)
            all_spikes.append(spikes)
        return all_values, all_spikes

    def _threshold(self, site: Site) -> Floats:
        theta = self.parameters[site.name].threshold
        return theta if theta.ndim == 0 else theta.reshape(-1, *[1] * (-site.channel_axis - 1))

    def _watch_ties(self, value: Floats, state, theta: Floats, t: int) -> None:
        numbers = self.coding.at(t)
        wanted = (value / theta * numbers.horizon - state.emitted) / numbers.quantum
        self.nearest_tie = min(self.nearest_tie, np.abs(wanted - np.floor(wanted) - 0.5).min())


def spiking_model(
    network: Network, plan: SitePlan, parameters: dict[str, NeuronParameters], timesteps: int, coding: Coding
) -> ir.Model:
    flat = insert_neurons(network, plan, parameters, shapes_of(network))
    return flat if timesteps == 1 else unroll_timesteps(flat, plan, timesteps=timesteps, coding=coding)


def with_spikes(model: ir.Model, plan: SitePlan) -> ir.Model:
    """A copy that also puts out the spikes of the first step and, stacked, those of the later ones."""
    watched = model.clone()
    graph = watched.graph
    values = {output.name: output for node in graph for output in node.outputs}
    graph.outputs.extend(values[spikes_name(site.name)] for site in plan.sites)
    for scan in [node for node in graph if node.name == SCAN_NAME]:
        body = scan.attributes["body"].as_graph()
        inner = {output.name: output for node in body for output in node.outputs}
        for site in plan.sites:
            body.outputs.append(inner[f"{spikes_name(site.name)}/later"])
            scan.resize_outputs(len(scan.outputs) + 1)
            scan.outputs[-1].name, scan.outputs[-1].type = f"later/{site.name}", ir.TensorType(ir.DataType.FLOAT)
            graph.outputs.append(scan.outputs[-1])
    return watched


def stock(model: ir.Model, images: Floats) -> dict[str, Floats]:
    """What an onnxruntime that knows nothing of us gives."""
    session = session_of(model_bytes(model, subject="net.onnx"))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def compare(proto: onnx.ModelProto, images: Floats, timesteps: int, coding: Coding, *, spiking_input=False, **levels):
    network, plan = plan_and_network(proto, spiking_input=spiking_input)
    parameters = neurons(plan, **levels)
    simulation = Simulation(network, plan, parameters, coding)
    values, spikes = simulation.run(images, timesteps)
    if coding is Coding.RATE and timesteps > 1:
        assert simulation.nearest_tie > 1e-5, "draw other images"
    got = stock(with_spikes(spiking_model(network, plan, parameters, timesteps, coding), plan), images)
    for site in plan.sites:
        emitted = [got[spikes_name(site.name)], *got.get(f"later/{site.name}", [])]
        for t in range(timesteps):
            assert np.array_equal(emitted[t], spikes[t][site.name]), (site.name, t + 1)
        assert np.abs(emitted[0]).max() > 0
    for name in network.outputs:
        expected = np.stack([value[name] for value in values])
        np.testing.assert_allclose(got[name], expected[-1], rtol=1e-4, atol=1e-4)
        if timesteps > 1:
            assert got[f"{name}{PER_STEP}"].shape == (timesteps, *got[name].shape)
            assert np.array_equal(got[f"{name}{PER_STEP}"][-1], got[name])
            np.testing.assert_allclose(got[f"{name}{PER_STEP}"], expected, rtol=1e-4, atol=1e-4)


IMAGES = dyadic(2, 3, SIZE, SIZE, unit=0.125, most=8)
LEVELS = [(0, 1), (0, 7), (3, 7), (7, 2)]


def test_an_output_that_is_called_like_all_steps_of_another_is_refused():
    proto = tiny.two_outputs()
    (producer,) = [node for node in proto.graph.node if "map" in node.output]
    producer.output[0] = proto.graph.output[1].name = f"scores{PER_STEP}"
    with pytest.raises(
        UnsupportedGraphError, match=f"there is an output scores{PER_STEP}, as all timesteps of its output scores"
    ):
        spiking.checkpoint_of(proto, tiny.images(8), timesteps=2)


@pytest.mark.parametrize(("n", "p"), LEVELS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 8])
def test_refine_emits_the_spikes_of_the_equations(n: int, p: int, per_channel: bool, timesteps: int):
    compare(small_network(), IMAGES, timesteps, Coding.REFINE, n=n, p=p, per_channel=per_channel)


@pytest.mark.parametrize(("n", "p"), LEVELS)
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("timesteps", [2, 4, 7])
def test_rate_emits_the_spikes_of_the_equations(n: int, p: int, per_channel: bool, timesteps: int):
    images = tiny.images(1, 3, SIZE, SIZE, seed=3)
    compare(small_network(), images, timesteps, Coding.RATE, n=n, p=p, per_channel=per_channel, exact=False)


@pytest.mark.parametrize("timesteps", [1, 2, 4])
@pytest.mark.parametrize("spiking_input", [False, True])
def test_products_of_spiking_tensors_are_those_of_their_running_values(timesteps: int, spiking_input: bool):
    levels = {"n": 7, "p": 7, "per_channel": True, "spiking_input": spiking_input}
    compare(product_network(), IMAGES, timesteps, Coding.REFINE, **levels)


@pytest.mark.parametrize("timesteps", [2, 3])
def test_products_keep_up_in_rate_too(timesteps: int):
    images = tiny.images(1, 3, SIZE, SIZE, seed=1)
    compare(product_network(), images, timesteps, Coding.RATE, n=7, p=7, per_channel=True, exact=False)


@pytest.mark.parametrize("timesteps", [1, 3])
def test_the_image_itself_may_spike(timesteps: int):
    compare(small_network(), IMAGES, timesteps, Coding.REFINE, n=3, p=7, per_channel=True, spiking_input=True)


@pytest.mark.parametrize("opset", [13, 17, 22])
def test_networks_of_any_kept_opset_unroll(opset: int):
    network, plan = plan_and_network(small_network(opset=opset))
    parameters = neurons(plan, n=0, p=7, per_channel=True)
    model = spiking_model(network, plan, parameters, 3, Coding.REFINE)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    values, _ = Simulation(network, plan, parameters, Coding.REFINE).run(IMAGES, 3)
    np.testing.assert_allclose(stock(model, IMAGES)["scores"], values[-1]["scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("timesteps", [1, 4])
@pytest.mark.parametrize("coding", Coding)
def test_the_checkpoint_passes_the_checker_and_keeps_names_and_shapes(timesteps: int, coding: Coding):
    proto = small_network()
    network, plan = plan_and_network(proto)
    model = ir.to_proto(spiking_model(network, plan, neurons(plan, n=0, p=7, per_channel=True), timesteps, coding))
    onnx.checker.check_model(model, full_check=True)
    names = [output.name for output in proto.graph.output]
    per_step = [f"{name}{PER_STEP}" for name in names] if timesteps > 1 else []
    assert [output.name for output in model.graph.output] == names + per_step
    for before, after in zip(proto.graph.output, model.graph.output, strict=False):
        assert after.type == before.type
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)


@pytest.mark.parametrize("coding", Coding)
def test_the_batch_stays_open_and_images_do_not_see_each_other(coding: Coding):
    network, plan = plan_and_network(small_network())
    model = spiking_model(network, plan, neurons(plan, n=0, p=7, per_channel=True), 3, coding)
    images = dyadic(5, 3, SIZE, SIZE, unit=0.125, most=8)
    together = stock(model, images)
    for index in range(5):
        alone = stock(model, images[index : index + 1])
        np.testing.assert_allclose(alone["scores"][0], together["scores"][index], rtol=1e-5, atol=1e-5)
        per_step = f"scores{PER_STEP}"
        np.testing.assert_allclose(alone[per_step][:, 0], together[per_step][:, index], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("timesteps", [1, 4])
@pytest.mark.parametrize("coding", Coding)
@pytest.mark.skipif(find_library() is None, reason="the native library was not built")
def test_the_native_library_gives_the_same_spikes_as_the_function_bodies(timesteps: int, coding: Coding):
    network, plan = plan_and_network(small_network())
    parameters = neurons(plan, n=3, p=7, per_channel=True, exact=False)
    model = with_spikes(spiking_model(network, plan, parameters, timesteps, coding), plan)
    with_it = open_session(model, subject="net.onnx").run(IMAGES)
    without = open_session(model, subject="net.onnx", native=False).run(IMAGES)
    for ours, bodies in zip(with_it, without, strict=True):
        assert np.array_equal(ours, bodies)


@pytest.mark.parametrize("make", [small_network, product_network])
def test_the_error_of_refine_falls_with_every_timestep(make):
    proto = make()
    network, plan = plan_and_network(proto)
    parameters = neurons(plan, n=255, p=255, per_channel=True)  # fine enough in range that nothing is clipped
    images = tiny.images(4, 3, SIZE, SIZE)
    (expected,) = session_of(proto.SerializeToString()).run(["scores"], {"image": images})
    per_step = stock(spiking_model(network, plan, parameters, 8, Coding.REFINE), images)[f"scores{PER_STEP}"]
    errors = [float(np.linalg.norm(step - expected)) for step in per_step]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert errors[-1] < errors[0] / 60


def test_outputs_that_no_neuron_reaches_are_the_source_s_at_every_step():
    network, plan = plan_and_network(small_network())
    got = stock(spiking_model(network, plan, neurons(plan, n=0, p=1, per_channel=False), 3, Coding.RATE), IMAGES)
    assert np.array_equal(got["colour"], IMAGES.max(axis=(2, 3)))
    assert all(np.array_equal(step, got["colour"]) for step in got[f"colour{PER_STEP}"])


@pytest.mark.parametrize("given", ["image", "w2"])
def test_an_output_that_is_the_input_or_a_weight_has_its_steps_too(given: str):
    shape = f"[N, 3, {SIZE}, {SIZE}]" if given == "image" else "[5, 4, 1, 1]"
    proto = tiny.model(
        f"""
        g (float[N, 3, {SIZE}, {SIZE}] image) => (float[N, 5, {SIZE}, {SIZE}] y, float{shape} {given}) {{
            a = Conv (image, w1) y = Conv (a, w2)
        }}""",
        w1=dyadic(4, 3, 1, 1),
        w2=dyadic(5, 4, 1, 1),
    )
    network, plan = plan_and_network(proto)
    parameters = neurons(plan, n=7, p=7, per_channel=True)
    expected = IMAGES if given == "image" else dyadic(5, 4, 1, 1)
    got = stock(spiking_model(network, plan, parameters, 3, Coding.REFINE), IMAGES)
    assert list(got) == ["y", given, f"y{PER_STEP}", f"{given}{PER_STEP}"]
    assert np.array_equal(got[given], expected)
    assert all(np.array_equal(step, expected) for step in got[f"{given}{PER_STEP}"])
    assert np.array_equal(stock(spiking_model(network, plan, parameters, 1, Coding.REFINE), IMAGES)[given], expected)


def test_weights_shared_by_two_layers_are_folded_with_each_layer_s_own_threshold():
    proto = tiny.model(
        f"""
        g (float[N, 3, {SIZE}, {SIZE}] image) => (float[N, 4, {SIZE}, {SIZE}] scores) {{
            a = Conv (image, w) b = Relu (a) c = Conv (b, shared) d = Relu (c) scores = Conv (d, shared)
        }}""",
        w=dyadic(4, 3, 1, 1),
        shared=dyadic(4, 4, 1, 1),
    )
    compare(proto, IMAGES, 1, Coding.REFINE, n=0, p=7, per_channel=True)
    compare(proto, IMAGES, 3, Coding.REFINE, n=0, p=7, per_channel=True)
    network, plan = plan_and_network(proto)
    spiking = spiking_model(network, plan, neurons(plan, n=0, p=7, per_channel=True), 1, Coding.REFINE)
    assert "shared" not in spiking.graph.initializers
    assert "shared" in network.model.graph.initializers  # the source is left as it was


def test_a_bias_that_changes_from_step_to_step_does_not_gather_in_a_membrane():
    proto = tiny.model(
        f"""
        g (float[N, 3, {SIZE}, {SIZE}] image) => (float[N, 5] scores) {{
            a = Conv (image, w) b = Relu (a) p = GlobalMaxPool (b) f = Flatten (p)
            c = Gemm (f, v) scores = Gemm <beta = 2.0> (f, u, c)
        }}""",
        w=dyadic(4, 3, 1, 1),
        v=dyadic(4, 5),
        u=dyadic(4, 5, seed=1),
    )
    for timesteps in (1, 4):
        compare(proto, IMAGES, timesteps, Coding.REFINE, n=0, p=3, per_channel=True)


@pytest.mark.parametrize("condition", ["c = Greater (m, zero)", "c = Greater (zero, free)"])
def test_control_flow_after_a_neuron_is_refused_for_more_than_one_timestep(condition: str):
    # The second condition does not change from step to step: the branch alone sees what does.
    proto = tiny.model(
        f"""
        g (float[N, 3, {SIZE}, {SIZE}] image) => (float[N, 4, {SIZE}, {SIZE}] y) {{
            a = Conv (image, w) b = Conv (a, v) m = ReduceMax <keepdims = 0> (b)
            free = ReduceMax <keepdims = 0> (image) {condition}
            [choice] y = If (c) <then_branch = t () => (float[N, 4, {SIZE}, {SIZE}] p) {{ p = Relu (b) }},
                        else_branch = e () => (float[N, 4, {SIZE}, {SIZE}] q) {{ q = Neg (b) }}>
        }}""",
        opset=17,
        w=dyadic(4, 3, 1, 1),
        v=dyadic(4, 4, 1, 1),
        zero=np.float32(0),
    )
    network, plan = plan_and_network(proto)
    parameters = neurons(plan, n=7, p=7, per_channel=False)
    assert stock(spiking_model(network, plan, parameters, 1, Coding.REFINE), IMAGES)["y"].shape == (2, 4, SIZE, SIZE)
    with pytest.raises(UnsupportedGraphError) as refused:
        spiking_model(network, plan, parameters, 2, Coding.REFINE)
    assert str(refused.value) == (
        "control flow after a spiking layer cannot run for more than one timestep\n"
        "  choice: If\nhint: convert with --timesteps 1"
    )


def test_one_timestep_needs_no_scan():
    network, plan = plan_and_network(small_network())
    flat = spiking_model(network, plan, neurons(plan, n=0, p=7, per_channel=True), 1, Coding.REFINE)
    with pytest.raises(ValueError, match="needs no Scan"):
        unroll_timesteps(flat, plan, timesteps=1, coding=Coding.REFINE)
