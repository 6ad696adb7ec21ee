"""What this machine's processor is, and can."""

import functools
import platform
from pathlib import Path

_INFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's name, where the system tells it."""
    names = _field("model name")
    return names or platform.processor() or platform.machine()


@functools.cache
def products_may_overflow() -> bool:
    """Whether onnxruntime's kernels for uint8 times int8 add pairs of products in 16 bits, where two may not fit.

    They do on x86-64 without VNNI; where the system does not say whether that is there, it is taken not to be.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    return not {"avx512_vnni", "avx_vnni"} & set(_field("flags").split())


def _field(name: str) -> str:
    """What the system says of its first processor; empty where it says nothing."""
    lines = _INFO.read_text().splitlines() if _INFO.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(name)), "")
