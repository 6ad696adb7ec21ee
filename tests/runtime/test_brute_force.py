"""Synaptic operations against plain loops over every single product, on small random layers: exactly the same number."""

import itertools
import random
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import spiking
import tiny

from pmsm_cli.checkpoint.file import Checkpoint
from pmsm_cli.graph.network import Shape
from pmsm_cli.graph.sites import Reader
from pmsm_cli.neuron.coding import Coding
from pmsm_cli.runtime.count import count_spikes
from pmsm_cli.runtime.workload import measure_shapes

Product = tuple[tuple[int, ...], tuple[int, ...]]  # the positions of the left and of the right factor


def conv_products(node: onnx.NodeProto, data: Shape, weights: Shape, result: Shape) -> Iterator[tuple[int, ...]]:
    """The position in the data of every product that a convolution of one image makes, padding left out."""
    options = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    strides, dilations = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
    pads, groups = options.get("pads", [0, 0, 0, 0]), options.get("group", 1)
    transposed = node.op_type == "ConvTranspose"
    ins_a_group = data[1] // groups
    outs_a_group = result[1] // groups
    for group, i, _ in itertools.product(range(groups), range(ins_a_group), range(outs_a_group)):
        channel = group * ins_a_group + i
        for row, column in itertools.product(range(weights[2]), range(weights[3])):
            small = data if transposed else result
            large = result if transposed else data
            for y, x in itertools.product(range(small[2]), range(small[3])):
                far_y = y * strides[0] - pads[0] + row * dilations[0]
                far_x = x * strides[1] - pads[1] + column * dilations[1]
                if 0 <= far_y < large[2] and 0 <= far_x < large[3]:
                    yield (channel, y, x) if transposed else (channel, far_y, far_x)


def matrix_products(left: Shape, right: Shape) -> Iterator[Product]:
    """The positions of both factors of every product of two stacks of matrices, without the batch."""
    for stack in itertools.product(*map(range, left[1:-2])):
        for row, inner, column in itertools.product(range(left[-2]), range(left[-1]), range(right[-1])):
            yield (*stack, row, inner), (*stack, inner, column)


def synapses(node: onnx.NodeProto, reader: Reader, shapes: dict[str, Shape], weights: dict[str, Shape]) -> np.ndarray:
    """How many products every neuron of one image takes part in, by going through all of them."""
    data = shapes[node.input[reader.operand]]
    counts = np.zeros(data[1:])
    if node.op_type in ("Conv", "ConvTranspose"):
        for position in conv_products(node, data, weights[node.input[1]], shapes[node.output[0]]):
            counts[position] += 1
        return counts
    other = node.input[1 - reader.operand]
    constant = other in weights
    if node.op_type == "Gemm":  # of rows: one image is one of them
        options = {each.name: each.i for each in node.attribute}
        outputs = weights[other][0 if options.get("transB") else 1]
        for position, _ in itertools.product(range(data[1]), range(outputs)):
            counts[position] += 1
        return counts
    beside = (1, *weights[other]) if constant else shapes[other]
    if len(beside) < len(data):  # the same matrix for the whole stack
        beside = (1, *data[1:-2], *beside[1:])
    pair = (data, beside) if reader.operand == 0 else (beside, data)
    for factors in matrix_products(*pair):
        counts[factors[reader.operand]] += 1
    return counts


def check(checkpoint: Checkpoint, images: np.ndarray) -> None:
    """What is counted in the graph is what the loops count, to the last one."""
    shapes = measure_shapes(checkpoint)
    graph = onnx.load_from_string(spiking.serialised(checkpoint.model)).graph
    nodes = {node.name: node for node in graph.node}
    weights = {each.name: tuple(each.dims) for each in graph.initializer}
    spikes = spiking.spikes_of(checkpoint, images)
    counted = count_spikes(checkpoint, spiking.batches_of(images, 3))
    for site, count in zip(checkpoint.manifest.plan.sites, counted.sites, strict=True):
        for step, emitted in enumerate(spikes[site.name].astype(np.float64)):
            operations = events = 0.0
            for reader in site.readers:
                product = nodes[reader.node].input[1 - reader.operand] not in weights
                if product and reader.operand == 1 and step == 0:
                    continue  # the left operand's spikes have done the work
                each = synapses(nodes[reader.node], reader, shapes, weights)
                operations += (np.abs(emitted) * each).sum()
                events += ((emitted != 0) * each).sum()
                if f"{reader.node}/row_sum_{reader.operand}" in nodes:
                    operations += np.abs(emitted).sum()
                    events += (emitted != 0).sum()
            assert count.synaptic_ops[step] == operations / len(images), (site.name, step)
            assert count.events[step] == events / len(images), (site.name, step)


def random_convolution(seed: int) -> onnx.ModelProto:
    """A first layer, then a Conv and a ConvTranspose of random kernels, strides, pads, dilations and groups."""
    draw = random.Random(seed)

    def attributes(kernel: tuple[int, int], groups: int) -> str:
        strides, dilations = ([draw.choice((1, 1, 2, 3)) for _ in "yx"] for _ in range(2))
        pads = [draw.randrange(0, size) for size in (*kernel, *kernel)]
        return f"<strides = {strides}, dilations = {dilations}, pads = {pads}, group = {groups}>"

    kernels = [(draw.randint(1, 3), draw.randint(1, 3)) for _ in range(2)]
    groups = [draw.choice((1, 2, 4)) for _ in range(2)]
    return tiny.model(
        f"""
        g (float[N, 3, 9, 10] image) => (float[N, 8, H, W] y) {{
            a = Conv (image, w1)
            b = Conv {attributes(kernels[0], groups[0])} (a, w2)
            c = ConvTranspose {attributes(kernels[1], groups[1])} (b, w3)
            y = Relu (c)
        }}""",
        w1=tiny.weights(4, 3, 1, 1, seed=seed),
        w2=tiny.weights(8, 4 // groups[0], *kernels[0], seed=seed),
        w3=tiny.weights(8, 8 // groups[1], *kernels[1], seed=seed),
    )


def automatic_padding() -> onnx.ModelProto:
    """Paddings that the operator works out by itself, and an even kernel that they are not symmetric for."""
    return tiny.model(
        """
        g (float[N, 3, 9, 10] image) => (float[N, 4, 9, 10] y) {
            a = Conv (image, w1)
            b = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (a, w2)
            c = Conv <auto_pad = "SAME_LOWER"> (b, w2)
            d = ConvTranspose <strides = [2, 2], output_padding = [0, 1], pads = [0, 0, 1, 1]> (c, w2)
            y = Relu (d)
        }""",
        w1=tiny.weights(4, 3, 1, 1),
        w2=tiny.weights(4, 4, 2, 2),
    )


def matrices() -> onnx.ModelProto:
    """Gemm, plain and transposed, behind matrix products with weights on either side."""
    return tiny.model(
        """
        g (float[N, 3, 9, 10] image) => (float[N, 6] y) {
            a = Conv (image, w1)
            b = MatMul (a, w2)
            c = MatMul (w3, b)
            d = Flatten (c)
            e = Gemm (d, w4)
            y = Gemm <transB = 1> (e, w5)
        }""",
        w1=tiny.weights(2, 3, 1, 1),
        w2=tiny.weights(10, 4),
        w3=tiny.weights(3, 9),
        w4=tiny.weights(24, 5),
        w5=tiny.weights(6, 5),
    )


def attention() -> onnx.ModelProto:
    """Two heads: queries with keys, a softmax, weights with values."""
    return tiny.model(
        """
        g (float[N, 3, 4, 4] image) => (float[N, 16, 8] y) {
            a = Conv (image, w1)
            t = Reshape (a, tokens)
            s = Transpose <perm = [0, 2, 1]> (t)
            q = MatMul (s, wq)
            k = MatMul (s, wk)
            v = MatMul (s, wv)
            q4 = Reshape (q, split)
            k4 = Reshape (k, split)
            v4 = Reshape (v, split)
            qh = Transpose <perm = [0, 2, 1, 3]> (q4)
            kh = Transpose <perm = [0, 2, 3, 1]> (k4)
            vh = Transpose <perm = [0, 2, 1, 3]> (v4)
            w = MatMul (qh, kh)
            p = Softmax <axis = -1> (w)
            o = MatMul (p, vh)
            m = Transpose <perm = [0, 2, 1, 3]> (o)
            y = Reshape (m, join)
        }""",
        w1=tiny.weights(8, 3, 1, 1),
        wq=tiny.weights(8, 8),
        wk=tiny.weights(8, 8, seed=1),
        wv=tiny.weights(8, 8, seed=2),
        tokens=np.array([0, 8, 16]),
        split=np.array([0, 16, 2, 4]),
        join=np.array([0, 16, 8]),
    )


@pytest.mark.parametrize("seed", range(12))
def test_random_convolutions_are_counted_product_by_product(seed: int):
    images = tiny.images(4, 3, 9, 10, seed=seed)
    check(spiking.checkpoint_of(random_convolution(seed), images, levels=3), images)


@pytest.mark.parametrize("make", [automatic_padding, matrices])
@pytest.mark.parametrize("timesteps", [1, 3])
def test_paddings_and_matrices_are_counted_product_by_product(make, timesteps: int):
    images = tiny.images(4, 3, 9, 10)
    check(spiking.checkpoint_of(make(), images, levels=3, timesteps=timesteps), images)


@pytest.mark.parametrize(("timesteps", "coding"), [(1, Coding.REFINE), (3, Coding.REFINE), (3, Coding.RATE)])
def test_attention_is_counted_product_by_product_by_its_real_sizes(timesteps: int, coding: Coding):
    images = tiny.images(4, 3, 4, 4)
    checkpoint = spiking.checkpoint_of(attention(), images, levels=3, timesteps=timesteps, coding=coding)
    assert any(len(shape) == 4 and shape[1:] == (2, 16, 16) for shape in measure_shapes(checkpoint).values())
    check(checkpoint, images)
