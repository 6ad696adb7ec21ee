"""What operators beside the synapses compute: worked numbers, and nothing passed off as free."""

from dataclasses import astuple

import onnx_ir as ir
import pytest
import tiny

from pmsm_cli.graph.operations import ELEMENTWISE, MOVING, Operations, operations_of


def computed(text: str, **shapes: tuple[int, ...]) -> Operations | None:
    """What one operator computes; `y` is what it puts out, and constants are the values that have no shape."""
    constants = {"w": tiny.weights(6)}
    head = ", ".join(f"float[{', '.join(map(str, shape))}] {name}" for name, shape in shapes.items() if name != "y")
    model = ir.from_proto(tiny.model(f"g ({head}) => (float y) {{ y = {text} }}", **constants))
    return operations_of(next(iter(model.graph)), shapes)


@pytest.mark.parametrize(
    ("text", "shapes", "expected"),
    [
        ("Relu (x)", {"x": (2, 6), "y": (2, 6)}, Operations(compare=12)),
        ("Clip (x)", {"x": (2, 6), "y": (2, 6)}, Operations(compare=24)),
        ("Sigmoid (x)", {"x": (1, 6), "y": (1, 6)}, Operations(add=6, divide=6, exponential=6)),
        ("Add (x, z)", {"x": (2, 6), "z": (1, 6), "y": (2, 6)}, Operations(add=12)),
        ("Mul (x, w)", {"x": (2, 6), "y": (2, 6)}, Operations(multiply=12)),
        ("Div (x, w)", {"x": (2, 6), "y": (2, 6)}, Operations(multiply=12)),  # by a constant: times 1 over it
        ("Div (x, z)", {"x": (2, 6), "z": (2, 6), "y": (2, 6)}, Operations(divide=12)),
        ("Div (x, z)", {"x": (2, 6), "z": (2, 1), "y": (2, 6)}, Operations(divide=2, multiply=12)),
        ("Max (x, z, x)", {"x": (1, 6), "z": (1, 6), "y": (1, 6)}, Operations(compare=12)),
        ("GlobalAveragePool (x)", {"x": (1, 6, 4, 4), "y": (1, 6, 1, 1)}, Operations(add=96, multiply=6)),
        ("ReduceMax (x)", {"x": (1, 6, 4), "y": (1, 6, 1)}, Operations(compare=24)),
        (
            "AveragePool <kernel_shape = [2, 3]> (x)",
            {"x": (1, 2, 4, 6), "y": (1, 2, 2, 2)},
            Operations(add=48, multiply=8),
        ),
        ("MaxPool <kernel_shape = [2, 2]> (x)", {"x": (1, 2, 4, 4), "y": (1, 2, 2, 2)}, Operations(compare=32)),
        (
            "Softmax <axis = 1> (x)",
            {"x": (2, 6, 5), "y": (2, 6, 5)},
            Operations(add=120, multiply=60, compare=60, exponential=60, divide=10),
        ),
        (
            "LayerNormalization <axis = -1> (x, w)",
            {"x": (2, 5, 6), "y": (2, 5, 6)},
            Operations(add=240, multiply=180 + 20, divide=10, root=10),
        ),
        ("Reshape (x, z)", {"x": (2, 6), "z": (1,), "y": (12,)}, Operations()),
        ('Einsum <equation = "ij->i"> (x)', {"x": (2, 6), "y": (2,)}, None),
        ("Relu (x)", {"x": (2, 6)}, None),  # of unknown size
    ],
)
def test_an_operator_computes_what_can_be_counted_by_hand(text: str, shapes, expected):
    assert computed(text, **shapes) == expected


def test_what_moves_values_computes_nothing():
    assert not MOVING & ELEMENTWISE


def test_operations_add_up_kind_by_kind():
    one, other = Operations(add=1, multiply=2, compare=3), Operations(exponential=4, divide=5, root=6)
    assert astuple(one + other * 2) == (1, 2, 3, 8, 10, 12)
    assert (one + other).total == 21
    assert one.is_linear
    assert not (one + Operations(root=1)).is_linear
