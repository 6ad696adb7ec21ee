"""The neuron as ONNX functions of the domain `ai.pmsm`, with bodies in standard operators.

A file that carries these functions runs in any onnxruntime. A native library that registers operators of the same names
takes the place of the bodies and must give the same spikes (`pmsm_cli.neuron.reference` is the specification).
"""

import onnx_ir as ir

DOMAIN = "ai.pmsm"
DOMAIN_VERSION = 1
NEURON = "PolarityNeuron"
NEURON_STEP = "PolarityNeuronStep"
# The attributes of neurons.
LEVELS = ("negative_levels", "positive_levels")
NEURON_OPS = (NEURON, NEURON_STEP)

# From the count that a neuron would like to emit to the spikes that it does emit.
_EMISSION_TEXT = """
  undefined = IsNaN (wanted)
  nothing = Constant <value_float = 0.0> ()
  defined = Where (undefined, nothing, wanted)
  rounded = Round (defined)
  negative = Constant <value_int: int = @negative_levels> ()
  positive = Constant <value_int: int = @positive_levels> ()
  negative_float = Cast <to = 1> (negative)
  lowest = Neg (negative_float)
  highest = Cast <to = 1> (positive)
  spikes = Clip (rounded, lowest, highest)
"""

# A neuron at the first timestep: value and threshold in, spike counts out.
_NEURON_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm" : 1]>
carrier (float[N] value, float[M] threshold) => (float[N] spikes)
{{ spikes = ai.pmsm.PolarityNeuron <negative_levels = 0, positive_levels = 1> (value, threshold) }}
<domain: "ai.pmsm", opset_import: ["" : {opset}]>
PolarityNeuron <negative_levels, positive_levels> (value, threshold) => (spikes)
{{
  wanted = Div (value, threshold)
{emission}}}
"""

# A neuron at any later timestep: it also takes what it has emitted so far and the coding's two numbers of this step.
_NEURON_STEP_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm" : 1]>
carrier (float[N] value, float[M] threshold, float[N] emitted, float horizon, float quantum)
  => (float[N] spikes, float[N] emitted_now)
{{
  spikes, emitted_now = ai.pmsm.PolarityNeuronStep <negative_levels = 0, positive_levels = 1>
    (value, threshold, emitted, horizon, quantum)
}}
<domain: "ai.pmsm", opset_import: ["" : {opset}]>
PolarityNeuronStep <negative_levels, positive_levels> (value, threshold, emitted, horizon, quantum)
  => (spikes, emitted_now)
{{
  in_thresholds = Div (value, threshold)
  target = Mul (in_thresholds, horizon)
  missing = Sub (target, emitted)
  wanted = Div (missing, quantum)
{emission}  weighted = Mul (spikes, quantum)
  emitted_now = Add (emitted, weighted)
}}
"""


def neuron_function(opset: int) -> ir.Function:
    """`PolarityNeuron(value, threshold) -> spikes`, its body written in the given ONNX opset (13 or later)."""
    return _parse(_NEURON_TEXT, opset)


def neuron_step_function(opset: int) -> ir.Function:
    """`PolarityNeuronStep(value, threshold, emitted, horizon, quantum) -> (spikes, emitted_now)`."""
    return _parse(_NEURON_STEP_TEXT, opset)


def _parse(text: str, opset: int) -> ir.Function:
    (function,) = ir.from_onnx_text(text.format(opset=opset, emission=_EMISSION_TEXT)).functions.values()
    return function
