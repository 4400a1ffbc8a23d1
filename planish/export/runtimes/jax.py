"""JAX as the runtime of StableHLO programs, on the device that JAX uses: a processor, a GPU or a TPU."""

from __future__ import annotations

import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from planish.artifact import Outputs, Pixels


class Jax:
    """Runs ``.stablehlo`` files as ``jax.export`` writes them."""

    name: ClassVar[str] = "jax"
    formats: ClassVar[tuple[str, ...]] = ("stablehlo",)
    install: ClassVar[str] = "pip install 'planish[jax]'"
    danger: ClassVar[str] = "a StableHLO program names functions of XLA that do not check their arguments, so a crafted one can run code"
    module: ClassVar[str] = "jax"

    @staticmethod
    def version() -> str:
        return "" if find_spec("jax") is None else version("jax")

    @staticmethod
    def settings(threads: int) -> dict[str, str]:
        return {"threads": str(threads)}

    @staticmethod
    def load(file: Path, threads: int, batch: int | None) -> JaxPredictor:
        os.environ["NPROC"] = str(threads)  # of XLA's pool, which is started at the first use of a processor
        import jax.export

        return JaxPredictor(jax.export.deserialize(bytearray(file.read_bytes())))

    @staticmethod
    def executed_precisions(file: Path) -> dict[str, int]:
        return {}  # XLA does not report them


class JaxPredictor:
    """A loaded program, compiled for each batch size; if it takes single images only, they are run one after the other."""

    def __init__(self, exported: Any) -> None:
        import jax

        self._call = jax.jit(exported.call)
        self._single = exported.in_avals[0].shape[0] == 1

    def __call__(self, images: Pixels) -> Outputs:
        """Run one batch of uint8 pixels ``(N, H, W, C)``."""
        pieces = [images[i : i + 1] for i in range(len(images))] if self._single else [images]
        found = [self._call(np.ascontiguousarray(piece)) for piece in pieces]
        return {name: np.concatenate([np.asarray(part[name]) for part in found]) for name in found[0]}
