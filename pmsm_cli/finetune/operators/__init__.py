"""The ONNX operators that image networks use, as torch functions; importing the families fills the table."""

from pmsm_cli.finetune.operators import elementwise, layers, normalisation, pooling, reductions, resizing, shapes
from pmsm_cli.finetune.operators.table import OPERATORS, Call

__all__ = ["OPERATORS", "Call", "elementwise", "layers", "normalisation", "pooling", "reductions", "resizing", "shapes"]
