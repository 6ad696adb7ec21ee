"""Sites: one neuron a tensor, what stays analog and why, and nothing passed over in silence."""

import numpy as np
import onnx
import pytest
import tiny

from pmsm_cli.errors import UnsupportedGraphError
from pmsm_cli.graph.ingest import ingest
from pmsm_cli.graph.network import Network
from pmsm_cli.graph.shapes import infer_shapes
from pmsm_cli.graph.sites import SitePlan, find_sites

READS_IMAGE = "reads the image (direct coding)"


def plan_of(proto: onnx.ModelProto, *, spiking_input: bool = False) -> SitePlan:
    network = ingest(proto, subject="net.onnx")
    return find_sites(network, shapes_of(network), spiking_input=spiking_input)


def shapes_of(network: Network) -> dict[str, tuple[int, ...]]:
    return infer_shapes(network.model, network.image.shape(height=8, width=8))


def network_of(body: str, output: str = "float[N, k] y", **weights: np.ndarray) -> onnx.ModelProto:
    return tiny.model(f"g (float[N, 3, 8, 8] x) => ({output}) {{ {body} }}", **weights)


def attention(batch: int | str = "N") -> onnx.ModelProto:
    return tiny.model(
        f"""
        g (float[{batch}, 3, 8, 8] x) => (float[{batch}, 4, 16] y) {{
            a = Conv <strides = [2, 2]> (x, w)
            t = Reshape (a, s)
            q = MatMul (wq, t)
            k = Transpose <perm = [0, 2, 1]> (t)
            scores = MatMul (k, q)
            p = Softmax (scores)
            y = MatMul (t, p)
        }}""",
        w=tiny.weights(4, 3, 2, 2),
        wq=tiny.weights(4, 4),
        s=np.array([0, 4, 16]),
    )


def dynamic_layers() -> onnx.ModelProto:
    body = """
        a = Conv (x, w) r = Relu (a) p = ReduceMean (r, batch) i = Slice (p, zero, one, batch) k = Concat <axis = 0> (i, i)
        kernel = GlobalAveragePool (k) y = Conv (r, kernel) e = Einsum <equation = "nchw,nchw,nchw->nc"> (y, y, y)
        f = Flatten (r) ft = Transpose (f) z = Gemm (f, ft)
    """
    return network_of(
        body,
        "float[N, 2, 8, 8] y, float[N, 2] e, float[N, N] z",
        w=tiny.weights(4, 3, 1, 1),
        batch=np.array([0]),
        zero=np.array([0]),
        one=np.array([1]),
    )


ALL_NETWORKS = [
    tiny.convolutional,
    tiny.batch_norm,
    tiny.residual,
    tiny.two_outputs,
    tiny.channels_last,
    attention,
]


@pytest.mark.parametrize(("learned", "analog"), [(False, ["a", "c", "y"]), (True, ["a"])])
def test_the_image_in_another_basis_is_still_the_image(learned: bool, analog: list[str]):
    places = np.arange(8)
    cosines = np.cos(np.pi / 8 * (places[:, None] + 0.5) * places) * np.where(places, np.sqrt(2 / 8), np.sqrt(1 / 8))
    weights = tiny.weights(8, 8) if learned else (3 * cosines).astype(np.float32)
    body = "a = MatMul (x, w) b = Transpose <perm = [0, 1, 3, 2]> (a) c = MatMul (b, w) y = Conv (c, v)"
    body += " r = Relu (y) z = Conv (r, u)"
    network = network_of(body, "float[N, 2, 8, 8] z", w=weights, v=tiny.weights(4, 3, 1, 1), u=tiny.weights(2, 4, 1, 1))
    plan = plan_of(network)
    assert [layer.node for layer in plan.analog_layers] == analog
    assert {layer.reason for layer in plan.analog_layers} == {READS_IMAGE}


def test_one_neuron_serves_all_readers_of_a_tensor():
    plan = plan_of(tiny.residual())
    shared = next(site for site in plan.sites if site.name == "b")
    assert [reader.node for reader in shared.readers] == ["c", "d"]
    assert shared.channels == 4
    assert shared.neurons == 4 * 8 * 8
    assert [site.name for site in plan.sites] == ["b", "e", "h"]


def test_the_first_layer_reads_the_analog_image():
    plan = plan_of(tiny.convolutional())
    assert [(layer.node, layer.reason, layer.every_step) for layer in plan.analog_layers] == [("a", READS_IMAGE, False)]
    assert [site.name for site in plan.sites] == ["b", "f"]


def test_the_image_itself_spikes_where_asked():
    plan = plan_of(tiny.convolutional(), spiking_input=True)
    assert plan.analog_layers == ()
    assert [site.name for site in plan.sites] == ["image", "b", "f"]
    assert (plan.sites[0].channel_axis, plan.sites[0].channels, plan.sites[0].neurons) == (-3, 3, 192)


def test_layers_behind_a_fixed_normalisation_of_the_image_still_read_the_image():
    body = "c = Sub (x, mean) d = Div (c, std) a = Conv (d, w) b = Conv (a, v) y = Flatten (b)"
    proto = network_of(
        body, mean=tiny.weights(3, 1, 1), std=np.float32(2), w=tiny.weights(4, 3, 1, 1), v=tiny.weights(4, 4, 1, 1)
    )
    plan = plan_of(proto)
    assert [layer.node for layer in plan.analog_layers] == ["a"]
    assert plan_of(proto, spiking_input=True).sites[0].name == "d"


def test_readers_whose_channels_lie_on_different_axes_share_one_threshold():
    body = "a = Conv (x, w) b = Conv (a, v) c = MatMul (a, m) y = Add (b, c)"
    weights = {"w": tiny.weights(4, 3, 1, 1), "v": tiny.weights(4, 4, 1, 1), "m": tiny.weights(8, 8)}
    (site,) = plan_of(network_of(body, "float[N, 4, 8, 8] y", **weights)).sites
    assert (site.channel_axis, site.channels) == (None, 1)
    assert [reader.op_type for reader in site.readers] == ["Conv", "MatMul"]


def test_operators_that_read_the_value_itself_are_listed():
    body = "a = Conv (x, w) b = Conv (a, v) c = Add (a, b) s = Shape (a) r = Reshape (c, s) y = Flatten (r)"
    proto = network_of(body, w=tiny.weights(4, 3, 1, 1), v=tiny.weights(4, 4, 1, 1))
    assert plan_of(proto).sites[0].analog_readers == ("Add",)


def test_multiply_accumulates_leave_padding_out():
    plan = plan_of(tiny.convolutional())
    # A 3x3 kernel on 8x8 with one pad meets 22 x 22 products for each pair of channels (8 x 3 less 2 at the borders).
    assert [layer.macs for layer in plan.analog_layers] == [22 * 22 * 3 * 4]
    assert [site.macs for site in plan.sites] == [22 * 22 * 4 * 6, 6 * 5]
    assert plan.total_macs == 22 * 22 * (12 + 24) + 30
    assert plan.spiking_share == pytest.approx(100 * (22 * 22 * 24 + 30) / plan.total_macs)


@pytest.mark.parametrize("make", [tiny.convolutional, attention])
def test_a_fixed_batch_counts_a_single_image(make):
    one, four = plan_of(make(batch=1)), plan_of(make(batch=4))
    assert [site.macs for site in four.sites] == [site.macs for site in one.sites]
    assert [site.neurons for site in four.sites] == [site.neurons for site in one.sites]
    assert [layer.macs for layer in four.analog_layers] == [layer.macs for layer in one.analog_layers]


def test_windows_folded_into_the_batch_count_as_one_image():
    body = "a = Conv (x, w) t = Transpose <perm = [0, 2, 3, 1]> (a) s = Reshape (t, windows) z = MatMul (s, m) y = Flatten (z)"
    proto = network_of(body, w=tiny.weights(4, 3, 1, 1), m=tiny.weights(4, 5), windows=np.array([-1, 16, 4]))
    (site,) = plan_of(proto).sites
    assert (site.neurons, site.macs) == (4 * 64, 4 * 64 * 5)


def test_layers_whose_weights_are_computed_are_reported_with_their_work():
    with pytest.raises(UnsupportedGraphError) as refused:
        plan_of(dynamic_layers())
    assert str(refused.value) == (
        "net.onnx: has no synaptic operator that could be driven by spikes\n"
        "  a: Conv, reads the image (direct coding)\n"
        "  y: Conv, its weights are computed from the image\n"
        "  e: Einsum, no spiking form yet\n"
        "  z: Gemm, its weights are computed from the image\n"
        "hint: --spiking-input turns the image itself into spikes"
    )
    plan = plan_of(dynamic_layers(), spiking_input=True)
    assert [(layer.node, layer.macs) for layer in plan.analog_layers] == [
        ("y", 8 * 8 * 4 * 2),
        ("e", 8 * 8 * 2 * 2),  # three factors: two multiplications each
        ("z", 256),  # one image against one image
    ]
    assert all(layer.every_step for layer in plan.analog_layers)  # they follow the spiking image


def test_both_operands_of_a_product_of_activations_spike():
    plan = plan_of(attention())
    readers = {
        site.name: [(reader.node, reader.operand, reader.macs) for reader in site.readers] for site in plan.sites
    }
    work = 16 * 16 * 4
    assert readers == {
        "t": [("q", 1, 16 * 4 * 4), ("y", 0, work)],
        "k": [("scores", 0, work)],
        "q": [("scores", 1, 0)],
        "p": [("y", 1, 0)],
    }
    assert next(site for site in plan.sites if site.name == "t").channel_axis is None  # its readers disagree


def test_a_network_without_synaptic_operators_is_refused():
    with pytest.raises(UnsupportedGraphError) as refused:
        plan_of(tiny.without_synapse())
    assert str(refused.value) == (
        "net.onnx: has no synaptic operator that could be driven by spikes\n"
        "hint: synaptic operators are Conv, ConvTranspose, Gemm, MatMul"
    )


def test_a_network_of_one_layer_can_spike_on_its_image_alone():
    with pytest.raises(UnsupportedGraphError, match="--spiking-input"):
        plan_of(tiny.one_layer())
    assert [site.name for site in plan_of(tiny.one_layer(), spiking_input=True).sites] == ["image"]


CONTROL_FLOW = """
    a = Conv (x, w) m = ReduceMean <keepdims = 0> (x) c = Greater (m, zero)
    b = If (c) <then_branch = t () => (float[N, 4, 8, 8] p) { p = Conv (a, v) },
                else_branch = e () => (float[N, 4, 8, 8] q) { q = Neg (a) }>
    d = Conv (b, v) y = Flatten (d)
"""


def test_control_flow_is_reported_and_what_follows_it_spikes():
    proto = network_of(CONTROL_FLOW, w=tiny.weights(4, 3, 1, 1), v=tiny.weights(4, 4, 1, 1), zero=np.float32(0))
    plan = plan_of(proto)
    assert [(layer.node, layer.op_type, layer.reason) for layer in plan.analog_layers[1:]] == [
        ("b", "If", "control flow: its inner graph is not converted")
    ]
    assert [site.name for site in plan.sites] == ["b"]


def test_a_branch_that_captures_the_image_alone_counts_as_reading_the_image():
    body = """
        m = ReduceMean <keepdims = 0> (x) c = Greater (m, zero)
        b = If (c) <then_branch = t () => (float[N, 3, 8, 8] p) { p = Relu (x) },
                    else_branch = e () => (float[N, 3, 8, 8] q) { q = Neg (x) }>
        d = Conv (b, w) f = Conv (d, v) y = Flatten (f)
    """
    proto = network_of(body, w=tiny.weights(4, 3, 1, 1), v=tiny.weights(4, 4, 1, 1), zero=np.float32(0))
    assert [(layer.node, layer.reason) for layer in plan_of(proto).analog_layers][1:] == [("d", READS_IMAGE)]


@pytest.mark.parametrize(
    ("make", "spiking_input"),
    [*((make, spiking) for make in ALL_NETWORKS for spiking in (False, True)), (dynamic_layers, True)],
)
def test_every_operator_of_a_network_is_accounted_for(make, spiking_input: bool):
    network = ingest(make(), subject="net.onnx")
    plan = find_sites(network, shapes_of(network), spiking_input=spiking_input)
    driven = {reader.node for site in plan.sites for reader in site.readers}
    analog = {layer.node for layer in plan.analog_layers}
    assert not driven & analog
    rest = [node.op_type for node in network.model.graph if node.name not in driven | analog]
    assert {op_type: rest.count(op_type) for op_type in rest} == plan.other_ops
    assert driven | analog <= {node.name for node in network.model.graph}
    assert not {"Conv", "ConvTranspose", "Gemm", "MatMul"} & set(rest)


def test_sites_do_not_depend_on_known_shapes():
    network = ingest(tiny.residual(), subject="net.onnx")
    known, unknown = find_sites(network, shapes_of(network)), find_sites(network, {})
    assert [site.name for site in unknown.sites] == [site.name for site in known.sites]
    assert [site.channels for site in unknown.sites] == [site.channels for site in known.sites]
    assert all(site.neurons is None and site.readers[0].macs is None for site in unknown.sites)
    assert unknown.total_macs == 0
    assert unknown.spiking_share == 0


def test_a_layer_that_reads_no_image_stays_analog_and_says_so():
    body = """
        z = Shape (x) n = Slice (z, zero, one) s = Concat <axis = 0> (n, sizes) e = Expand (position, s)
        p = Conv (e, w) a = Conv (x, w) r = Relu (a) b = Conv (r, v) y = Add (b, p)
    """
    plan = plan_of(
        network_of(
            body,
            "float[N, 3, 8, 8] y",
            zero=np.array([0]),
            one=np.array([1]),
            sizes=np.array([3, 8, 8]),
            position=tiny.weights(1, 3, 8, 8),
            w=tiny.weights(3, 3, 1, 1),
            v=tiny.weights(3, 3, 1, 1, seed=1),
        )
    )
    assert sorted(layer.reason for layer in plan.analog_layers) == [
        READS_IMAGE,
        "what it reads does not depend on the image",
    ]
