"""Counting activations into histograms by the native library, where it is there."""

import ctypes

import numpy as np

from pmsm_cli.calibration.statistics import Bins, Counts, CountValues, Floats, count_values
from pmsm_cli.runtime.library import NativeLibrary

_ADDRESS, _SIZE = ctypes.c_void_p, ctypes.c_size_t


def counting_of(library: NativeLibrary | None) -> CountValues:
    """How values are counted fastest: by the library, and other threads run meanwhile."""
    if library is None:
        return count_values
    function = ctypes.CDLL(str(library.path)).pmsm_count_values
    function.restype = None
    function.argtypes = [_ADDRESS, _SIZE, _SIZE, _SIZE, _ADDRESS, _ADDRESS, _SIZE, _ADDRESS, _ADDRESS, _SIZE, _SIZE]

    def count(values: Floats, bins: Bins, counts: Counts, even_counts: Counts | None, first: int) -> None:
        values = np.ascontiguousarray(values, np.float32)
        even, merge = (None, 1) if even_counts is None else (even_counts.ctypes.data, bins.merge)
        limits = bins.lowest.ctypes.data, bins.per_unit.ctypes.data, counts.shape[1]
        function(values.ctypes.data, *values.shape, *limits, counts.ctypes.data, even, merge, first)

    return count
