"""Which of a network's outputs says how much each class has for it."""

import re

import onnx_ir as ir

_CALLED = re.compile("(^|[^a-z])(logits?|prob(abilitie)?s?|scores?|softmax|predictions?)([^a-z]|$)", re.IGNORECASE)
_BESIDE = re.compile("aux", re.IGNORECASE)  # heads that help in training
# What hands values on in the same order; timesteps are put together and taken apart by such.
_HANDS_ON = frozenset(
    {"Identity", "Cast", "Concat", "Unsqueeze", "Squeeze", "Gather", "Slice", "Reshape", "Softmax", "Sigmoid"}
)


def class_scores(model: ir.Model) -> str | None:
    """The name of the first output of shape [images, classes] of floats; None: the network tells no classes apart.

    Of several, those that are called what scores are called come first: the others may be features. Where there is
    none, that of the first of unknown shape, or of [images, classes, 1, 1], as a pooled convolution gives it. A single
    number for each image is no choice between classes, and of scores that are ranked already (TopK) the first is the
    largest whatever the class.
    """
    output = _scoring_output(model)
    return None if output is None else output.name


def class_count(model: ir.Model) -> int | None:
    """How many classes a network tells apart; None: none, or the graph does not state how many."""
    output = _scoring_output(model)
    width = None if output is None or output.shape is None else output.shape[1]
    return width if isinstance(width, int) else None


def _scoring_output(model: ir.Model) -> ir.Value | None:
    outputs = [output for output in model.graph.outputs if _may_be_scores(output)]
    return min(outputs, key=_unlikely) if outputs else None


def _unlikely(output: ir.Value) -> tuple[int, bool]:
    kind = 1 if output.shape is None else 0 if len(output.shape) == 2 else 2
    name = output.name or ""
    return kind, _CALLED.search(name) is None or _BESIDE.search(name) is not None


def _may_be_scores(output: ir.Value) -> bool:
    floats = output.dtype is None or output.dtype.is_floating_point()
    return floats and (output.shape is None or _is_list(output.shape)) and not _is_ranked(output)


def _is_list(shape: ir.Shape) -> bool:
    return len(shape) >= 2 and shape[1] != 1 and all(size == 1 for size in shape[2:])


def _is_ranked(value: ir.Value) -> bool:
    node = value.producer()
    while node is not None and node.op_type in _HANDS_ON and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node is not None and node.op_type == "TopK"
