"""A bundle, opened to be served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.preprocessing import decode, resize
from planish.errors import BundleError
from planish.export.bundle import SEAL, Bundle, changed_files, read_bundle
from planish.export.runtimes import load
from planish.serving.drift import Drift
from planish.serving.why import seen_region
from planish.tasks.answers import answers

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class ServedModel:
    """A bundle whose files are what they were when it was made, its model loaded and warm.

    Args:
        name: under which it is served.
        version: likewise.
        folder: the bundle.
        threads: of the runtime; None for those it was measured with.

    Raises:
        BundleError: the bundle is damaged, or was changed.
        RuntimeMissingError: its runtime is not installed.
        ExportError: the runtime cannot open the model.
    """

    def __init__(self, name: str, version: str, folder: Path, threads: int | None = None) -> None:
        self.name, self.version, self.folder, self.threads = name, version, folder, threads
        self.bundle: Bundle = read_bundle(folder)
        if changed := changed_files(folder, self.bundle):
            raise BundleError(f"{folder}: {'; '.join(changed[:3])}", "a bundle is served as it was made", "make the bundle again")
        self.seal = (folder / SEAL).read_text()
        self.drift = Drift(folder)
        files = [folder / file for file in self.bundle.files]
        self._predictor = load(files, self.bundle.runtime, threads=threads or self.bundle.threads)
        spec = self.bundle.input_spec
        self.input_shape = (spec.height, spec.width, spec.channels)
        outputs = self.run(np.zeros((1, *self.input_shape), np.uint8))  # the first call is the slowest
        self.outputs = {name: (values.dtype.kind, values.shape[1:]) for name, values in outputs.items()}

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    def run(self, images: Pixels) -> Outputs:
        """One batch of uint8 pixels ``(N, H, W, C)``."""
        return self._predictor(images)

    def pixels(self, file_bytes: bytes, max_pixels: int) -> tuple[Pixels, list[float]]:
        """An image file as uint8 ``(1, H, W, C)``, and the part of it that this is; see ``planish.serving.why.seen_region``.

        Raises:
            DataError: it is not an image, or has more than ``max_pixels``.
        """
        spec, preprocessing = self.bundle.input_spec, self.bundle.preprocessing
        image = decode(file_bytes, spec.channels, preprocessing.decode_side, max_pixels)
        return resize(image, spec, preprocessing)[None], seen_region(image.shape[0], image.shape[1], spec, preprocessing)

    def answers(self, outputs: Outputs, top: int = 5, sizes: Sequence[tuple[int, int]] | None = None) -> list[dict[str, Any]]:
        """What to say of each image; see ``planish.tasks.answers``."""
        return answers(self.bundle.name, outputs, self.bundle.class_names, top, sizes)
