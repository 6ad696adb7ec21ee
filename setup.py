"""Builds the native library where there is a C++ compiler; everything else about the package is in pyproject.toml."""

import os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

GCC_FLAGS = [
    "-O3",
    "-g0",
    "-std=c++17",
    "-fvisibility=hidden",
    # The same numbers everywhere: a fused multiply-add would round once where the specification rounds twice.
    "-ffp-contract=off",
    # Neither errno nor the floating-point exception flags are looked at; both would keep the loops from vector code.
    "-fno-math-errno",
    "-fno-trapping-math",
]
NATIVE = Path("pmsm_cli/runtime/native")
MSVC_FLAGS = ["/O2", "/std:c++17", "/fp:precise", "/EHsc"]


class BuildNativeLibrary(build_ext):
    """A library that onnxruntime loads, not a Python module: no `PyInit_` to export."""

    def build_extension(self, ext: Extension) -> None:
        """Compile with the flags of the compiler at hand, as many files at a time as there are processors."""
        ext.extra_compile_args = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else GCC_FLAGS
        compile_in_turn = self.compiler.compile

        def compile_side_by_side(sources: list[str], **settings: Any) -> list[str]:
            with ThreadPool(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_in_turn([source], **settings), sources, chunksize=1)
            return [path for paths in objects for path in paths]

        self.compiler.compile = compile_side_by_side
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Only what onnxruntime and `pmsm_cli.runtime` look up."""
        return list(ext.export_symbols)


setup(
    ext_modules=[
        Extension(
            "pmsm_cli.runtime._native",
            sources=sorted(str(path) for path in NATIVE.glob("*.cpp")),
            depends=sorted(str(path) for path in NATIVE.glob("*.h")),
            export_symbols=["RegisterCustomOps", "pmsm_library_version", "pmsm_multiplies_fast", "pmsm_count_values"],
            language="c++",
            optional=True,  # without a compiler the checkpoint's own functions do the work, only slower
        )
    ],
    cmdclass={"build_ext": BuildNativeLibrary},
)
