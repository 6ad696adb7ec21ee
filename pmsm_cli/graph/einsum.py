"""Writing each Einsum of two operands as the matrix product that it is.

Exporters write the same attention as MatMul between Transposes or as one Einsum. The rest of the house then has to know
the first form only: each label of an equation is a row, a column, contracted, or an axis in front of the matrices.
"""

from dataclasses import dataclass

import onnx_ir as ir

from pmsm_cli.graph.operators import Pieces, is_standard

_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ELLIPSIS = "..."


@dataclass(frozen=True, kw_only=True, slots=True)
class Equation:
    """An equation of two operands, one letter an axis; ellipses are spelled out."""

    operands: tuple[str, str]
    output: str

    @property
    def shared(self) -> str:
        """The axes in front of the matrices: in both operands and in the output."""
        left, right = self.operands
        return "".join(label for label in self.output if label in left and label in right)

    @property
    def contracted(self) -> str:
        """What is multiplied and summed over: in both operands, not in the output."""
        left, right = self.operands
        return "".join(label for label in left if label in right and label not in self.output)

    def alone(self, operand: int) -> str:
        """The axes of the output that only this operand has, in the order of the output."""
        own, other = self.operands[operand], self.operands[1 - operand]
        return "".join(label for label in self.output if label in own and label not in other)

    def dropped(self, operand: int) -> str:
        """The axes that only this operand has, and the output has not."""
        own, other = self.operands[operand], self.operands[1 - operand]
        return "".join(label for label in own if label not in other and label not in self.output)


def decompose_einsum(model: ir.Model) -> tuple[ir.Model, bool]:
    """Put MatMul (or Mul, where nothing is summed over) in the place of each Einsum of two operands.

    An Einsum of another number of operands, one that takes a diagonal, and one with an ellipsis of unknown rank stay.
    Precondition: ranks are inferred.
    """
    modified = False
    for node in list(model.graph):
        equation = read_equation(node)
        if equation is not None:
            _Rewriting(model.graph, node, equation).run()
            modified = True
    return model, modified


def read_equation(node: ir.Node) -> Equation | None:
    """The equation of an Einsum that can be written as a product of two matrices; None for anything else."""
    if not is_standard(node, "Einsum") or len(node.inputs) != 2:
        return None
    terms, arrow, output = node.attributes["equation"].as_string().replace(" ", "").partition("->")
    written = terms.split(",")
    spare = "".join(letter for letter in _LETTERS if letter not in terms)
    ellipses = [_ellipsis(term, value, spare) for term, value in zip(written, node.inputs, strict=True)]
    left, right = (term.replace(_ELLIPSIS, axes or "") for term, axes in zip(written, ellipses, strict=True))
    if None in ellipses or len(set(left)) < len(left) or len(set(right)) < len(right):
        return None
    longest = max((axes or "" for axes in ellipses), key=len)
    if arrow:
        output = output.replace(_ELLIPSIS, longest)
    else:  # by convention: the ellipsis, then what occurs once, in alphabetical order
        once = (label for label in left + right if (left + right).count(label) == 1 and label not in longest)
        output = longest + "".join(sorted(once))
    return Equation(operands=(left, right), output=output) if set(longest) <= set(output) else None


def _ellipsis(term: str, value: ir.Value | None, spare: str) -> str | None:
    """The letters of the axes that a term's ellipsis stands for, aligned at the right; None: the rank is not known."""
    if _ELLIPSIS not in term:
        return ""
    if value is None or value.shape is None:
        return None
    count = len(value.shape) - len(term.replace(_ELLIPSIS, ""))
    return spare[:count][::-1]


class _Rewriting:
    """One Einsum while it is written anew."""

    def __init__(self, graph: ir.Graph, node: ir.Node, equation: Equation) -> None:
        self.pieces, self.equation = Pieces(graph, node), equation

    def run(self) -> None:
        operands = [self._without_dropped(operand) for operand in (0, 1)]
        multiply = self._matrix_product if self.equation.contracted else self._plain_product
        self.pieces.finish(multiply(operands))

    def _without_dropped(self, operand: int) -> tuple[ir.Value, str]:
        value, labels = self.pieces.node.inputs[operand], self.equation.operands[operand]
        assert value is not None
        dropped = self.equation.dropped(operand)
        if not dropped:
            return value, labels
        kept = "".join(label for label in labels if label not in dropped)
        return self.pieces.reduce("ReduceSum", value, [labels.index(label) for label in dropped]), kept

    def _plain_product(self, operands: list[tuple[ir.Value, str]]) -> ir.Value:
        """Nothing is summed over: each operand in the order of the output, with axes of length 1 where it has none."""
        output = self.equation.output
        factors = []
        for value, labels in operands:
            ordered = self._ordered(value, labels, "".join(label for label in output if label in labels))
            missing = [axis for axis, label in enumerate(output) if label not in labels]
            factors.append(self.pieces.with_axes("Unsqueeze", ordered, missing))
        return self.pieces.add("Mul", factors, name=self.pieces.node.name)

    def _matrix_product(self, operands: list[tuple[ir.Value, str]]) -> ir.Value:
        """[left's own, right's own, shared, row, contracted] times [right's own, shared, contracted, column]."""
        equation, pieces, shared = self.equation, self.pieces, self.equation.shared
        fronts = [equation.alone(operand)[:-1] for operand in (0, 1)]
        row, column = (equation.alone(operand)[-1:] for operand in (0, 1))
        left = self._contracted_last(operands[0], fronts[0] + shared + row)
        if fronts[0] and fronts[1]:
            begin = len(fronts[0])
            left = pieces.with_axes("Unsqueeze", left, range(begin, begin + len(fronts[1])))
        left = pieces.with_axes("Unsqueeze", left, [] if row else [-2])
        if not column:
            right = pieces.with_axes("Unsqueeze", self._contracted_last(operands[1], fronts[1] + shared), [-1])
        elif len(equation.contracted) == 1:
            right = self._ordered(*operands[1], fronts[1] + shared + equation.contracted + column)
        else:
            right = self._contracted_last(operands[1], fronts[1] + shared + column)
            rank = len(fronts[1] + shared) + 2
            right = pieces.transposed(right, [*range(rank - 2), rank - 1, rank - 2])
        product = pieces.add("MatMul", [left, right], name=pieces.node.name)
        product = pieces.with_axes("Squeeze", product, [axis for axis, label in ((-2, row), (-1, column)) if not label])
        return self._ordered(product, fronts[0] + fronts[1] + shared + row + column, equation.output)

    def _contracted_last(self, operand: tuple[ir.Value, str], kept: str) -> ir.Value:
        """An operand with these axes in front, and what is summed over as one axis behind them."""
        contracted = self.equation.contracted
        value = self._ordered(*operand, kept + contracted)
        return value if len(contracted) == 1 else self.pieces.reshaped(value, [0] * len(kept) + [-1])

    def _ordered(self, value: ir.Value, labels: str, wanted: str) -> ir.Value:
        order = [labels.index(label) for label in wanted]
        return value if labels == wanted else self.pieces.transposed(value, order)
