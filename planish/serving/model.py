"""A bundle that is loaded for serving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from planish.data.preprocessing import decode_with_size, preprocess, resize
from planish.errors import BundleError
from planish.export.bundle.folder import SEAL, Bundle, changed_files, read_bundle, read_expected, unnamed_classes
from planish.export.bundle.signature import check_signature
from planish.export.checks.agreement import compact_outputs, disagreement
from planish.export.runtimes.registry import load, run_checked
from planish.serving.limits import MemoryBudget
from planish.serving.monitoring.drift import DEFAULT_DRIFT, Drift, DriftSettings
from planish.serving.occlusion import seen_region
from planish.tasks.localisation import View
from planish.tasks.responses import PLAIN, ResponseOptions, options, response_classes, responses

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class ServedModel:
    """A bundle with verified files, its model loaded and warmed up.

    Args:
        name: name under which the model is served.
        version: version under which the model is served.
        folder: folder of the bundle.
        threads: runtime threads; None for the number the bundle was measured with.
        public_key: public key that the bundle's signature must match; None accepts any bundle.
        drift: settings of drift detection for this model's predictions.

    Raises:
        BundleError: the bundle is damaged, was changed, or is not signed by the owner of the key.
        RuntimeMissingError: the bundle's runtime is not installed.
        ExportError: the runtime cannot open the model.
    """

    def __init__(
        self,
        name: str,
        version: str,
        folder: Path,
        threads: int | None = None,
        public_key: Path | None = None,
        drift: DriftSettings = DEFAULT_DRIFT,
    ) -> None:
        self.name, self.version, self.folder, self.threads, self.public_key = name, version, folder, threads, public_key
        self.bundle: Bundle = read_bundle(folder)
        if changed := changed_files(folder, self.bundle):
            raise BundleError(f"{folder}: {'; '.join(changed[:3])}", "a bundle is served as it was made", "make the bundle again")
        if public_key is not None:
            check_signature(folder, public_key)
        self.seal = (folder / SEAL).read_text()
        self.drift = Drift(folder, drift)
        files = [folder / file for file in self.bundle.files]
        self._predictor = load(files, self.bundle.runtime, threads=threads or self.bundle.threads)
        spec = self.bundle.input_spec
        self.input_shape = (spec.height, spec.width, spec.channels)
        outputs = self.run(np.zeros((1, *self.input_shape), np.uint8))  # warm-up; the first call is the slowest
        self.outputs = {name: (values.dtype, values.shape[1:]) for name, values in outputs.items()}
        samples = [preprocess((folder / name).read_bytes(), spec, self.bundle.preprocessing) for name in self.bundle.golden_samples]
        self.sample = np.stack(samples[:1]) if samples else np.zeros((1, *self.input_shape), np.uint8)
        self._known = self.run(self.sample)
        if fault := unnamed_classes(self._known, self.bundle):
            raise BundleError(fault, "each class has a name", "make the bundle again")
        self.fault = self._golden_fault(samples)  # empty, or how the golden outputs differ; if it is set, the model never becomes ready

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.name, self.version

    def run(self, images: Pixels) -> Outputs:
        """Run the model on a batch of uint8 pixels ``(N, H, W, C)``."""
        return run_checked(self._predictor, images, self.name)

    def wrong_answer(self, outputs: Outputs) -> str:
        """Describe what is wrong with these outputs of ``sample``; empty if they match the outputs of the first run."""
        if self.fault:
            return self.fault
        if not finite(outputs):
            return "the outputs of a golden sample are not finite"
        apart = disagreement(self._known, outputs)
        return "" if apart <= self.bundle.tolerance else f"the outputs of a golden sample have changed by {apart:.2g} of the largest value"

    def _golden_fault(self, samples: Sequence[Pixels]) -> str:
        """Describe how golden outputs differ from the expected ones; empty if they agree within the bundle's tolerance."""
        if not samples:
            return ""
        each = sum(int(np.prod(shape)) * dtype.itemsize for dtype, shape in self.outputs.values())
        expected = read_expected(self.folder, self.bundle, max_bytes=len(samples) * each)
        found = [compact_outputs(self.run(sample[None])) for sample in samples]
        apart = disagreement(expected, {name: np.concatenate([one[name] for one in found]) for name in found[0]})
        allowed = self.bundle.tolerance
        return "" if apart <= allowed else f"its golden samples' outputs differ by {apart:.2g} of the largest value, allowed is {allowed:g}"

    @property
    def options(self) -> tuple[str, ...]:
        """Options that a request may set; see ``planish.tasks.responses.options``."""
        return options(self.bundle.task)

    def pixels(self, file_bytes: bytes, max_pixels: int, memory: MemoryBudget) -> tuple[Pixels, View]:
        """Decode an image file to uint8 ``(1, H, W, C)``, and return the view of the original image that it shows.

        Blocks until enough memory is free.

        Raises:
            DataError: it is not an image, has more than ``max_pixels``, or needs more memory than the budget has in total.
        """
        spec, preprocessing = self.bundle.input_spec, self.bundle.preprocessing
        with memory.reservation() as reserve:
            image, (height, width) = decode_with_size(file_bytes, spec.channels, preprocessing.decode_side, max_pixels, reserve)
            view = View(height, width, seen_region(image.shape[0], image.shape[1], spec, preprocessing))
            return resize(image, spec, preprocessing)[None], view

    def responses(self, outputs: Outputs, views: Sequence[View] = (), asked: ResponseOptions = PLAIN) -> list[dict[str, Any]]:
        """Return one JSON response per image; see ``planish.tasks.responses``. Without views, images have the model's input size."""
        count = len(next(iter(outputs.values())))
        return responses(self.bundle.task, outputs, self.bundle.class_names, views or [View(*self.input_shape[:2])] * count, asked)

    def response_classes(self, answer: dict[str, Any]) -> list[str]:
        """Return the class names in a response, once for each time they occur."""
        return response_classes(self.bundle.task, answer)


def finite(outputs: Outputs) -> bool:
    """Return whether all values of all float outputs are finite. The minimum and maximum of an array that contains a NaN are NaN."""
    floats = [values for values in outputs.values() if values.dtype.kind == "f" and values.size]
    return all(np.isfinite(values.min()) and np.isfinite(values.max()) for values in floats)
