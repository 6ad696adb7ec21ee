"""What a figure was measured with: the line that stands beside every table."""

import os
import platform
from pathlib import Path

import numpy
import onnx
import onnxruntime

import pmsm_cli


def describe() -> str:
    """Processor, cores and versions, in one line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return (
        f"{cpu}, {os.cpu_count()} cores; Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, "
        f"onnx {onnx.__version__}, numpy {numpy.__version__}, pmsm {pmsm_cli.__version__}"
    )
