"""The baselines' neurons as ONNX functions; `pmsm_cli.baselines.neuron` is the specification."""

import onnx_ir as ir

DOMAIN = "ai.pmsm.baselines"
DOMAIN_VERSION = 1
INTEGRATE_AND_FIRE = "IntegrateAndFire"
SIGNED_WITH_MEMORY = "SignedWithMemory"

# current, threshold and membrane in; spikes, what they carry, and the membrane after the reset out.
_INTEGRATE_AND_FIRE_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm.baselines" : 1]>
carrier (float[N] current, float[M] threshold, float[N] before) => (float[N] spikes, float[N] carried, float[N] after)
{{ spikes, carried, after = ai.pmsm.baselines.IntegrateAndFire (current, threshold, before) }}
<domain: "ai.pmsm.baselines", opset_import: ["" : {opset}]>
IntegrateAndFire (current, threshold, before) => (spikes, carried, after)
{{
  membrane = Add (before, current)
  fires = GreaterOrEqual (membrane, threshold)
  spikes = Cast <to = 1> (fires)
  carried = Mul (threshold, spikes)
  after = Sub (membrane, carried)
}}
"""

# The same with the sum of the spikes so far, before and after.
_SIGNED_WITH_MEMORY_TEXT = """
<ir_version: 10, opset_import: ["" : {opset}, "ai.pmsm.baselines" : 1]>
carrier (float[N] current, float[M] threshold, float[N] before, float[N] emitted)
  => (float[N] spikes, float[N] carried, float[N] after, float[N] emitted_now)
{{ spikes, carried, after, emitted_now = ai.pmsm.baselines.SignedWithMemory (current, threshold, before, emitted) }}
<domain: "ai.pmsm.baselines", opset_import: ["" : {opset}]>
SignedWithMemory (current, threshold, before, emitted) => (spikes, carried, after, emitted_now)
{{
  membrane = Add (before, current)
  fires = GreaterOrEqual (membrane, threshold)
  positive = Cast <to = 1> (fires)
  lowest = Neg (threshold)
  too_low = LessOrEqual (membrane, lowest)
  zero = Constant <value_float = 0.0> ()
  has_emitted = Greater (emitted, zero)
  takes_back = And (too_low, has_emitted)
  negative = Cast <to = 1> (takes_back)
  spikes = Sub (positive, negative)
  carried = Mul (threshold, spikes)
  after = Sub (membrane, carried)
  emitted_now = Add (emitted, spikes)
}}
"""


def baseline_functions(opset: int) -> list[ir.Function]:
    """Both functions, their bodies written in the given ONNX opset (13 or later)."""
    texts = (_INTEGRATE_AND_FIRE_TEXT, _SIGNED_WITH_MEMORY_TEXT)
    return [function for text in texts for function in ir.from_onnx_text(text.format(opset=opset)).functions.values()]
