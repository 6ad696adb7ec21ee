"""Raw outputs as an .npz file."""

import io
import zipfile

import numpy as np
import numpy.typing as npt

from pmsm_cli.runtime.evaluate import source_outputs


class OutputCollector:
    """Gathers the outputs of batch after batch."""

    def __init__(self) -> None:
        """Nothing gathered yet."""
        self._batches: dict[str, list[npt.NDArray[np.float32]]] = {}

    def __call__(self, outputs: dict[str, npt.NDArray[np.float32]]) -> None:
        """Take in the outputs of one batch, by name."""
        for name, value in outputs.items():
            self._batches.setdefault(name, []).append(value)

    def npz(self) -> bytes:
        """Every output of all images, by its name."""
        buffer = io.BytesIO()
        images_first = source_outputs(list(self._batches))  # the others hold the timesteps before the images
        with zipfile.ZipFile(buffer, "w") as archive:  # numpy's own function takes some names for its options
            for name, values in self._batches.items():
                axis = 0 if name in images_first else 1
                joined = np.concatenate([np.atleast_1d(value) for value in values], axis=axis)
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, joined, allow_pickle=False)
        return buffer.getvalue()
