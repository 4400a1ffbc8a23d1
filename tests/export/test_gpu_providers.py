"""ONNX Runtime on a GPU: what falls back to the CPU is an error and never taken for the GPU. No GPU is needed here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from export_fakes import Images

from planish.artifact import Artifact
from planish.errors import ExportError, RuntimeMissingError
from planish.export.bundle.readme import readme
from planish.export.runtimes import onnxruntime as onnxruntime_runtime
from planish.export.runtimes.registry import RUNTIMES, load

GPU = ("onnxruntime-cuda", "onnxruntime-tensorrt")
CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


class Session:
    """A session on a machine with a GPU; the CPU computes."""

    started: tuple[str, ...] = ()
    layers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    asked: tuple[Any, ...] = ()

    def __init__(self, file: Any, options: Any, providers: Any, enable_fallback: int = 1) -> None:
        type(self).asked = (tuple(providers), enable_fallback)
        self.recorded = options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        self.plain = PLAIN(file, providers=[CPU])

    def get_providers(self) -> list[str]:
        return list(self.started)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        assert self.recorded, "ONNX Runtime raises where it was not asked to write this down"
        return [SimpleNamespace(ep_name=n, get_nodes=lambda t=t: [SimpleNamespace(op_type=o) for o in t]) for n, t in self.layers]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)


PLAIN = onnxruntime.InferenceSession


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    kind = type("Session", (Session,), {})
    monkeypatch.setattr(onnxruntime, "InferenceSession", kind)
    return kind


@pytest.mark.parametrize(
    ("runtime", "providers", "layers"),
    [
        ("onnxruntime-cuda", (CUDA, CPU), ((CUDA, ("Conv", "Gemm")), (CPU, ("Shape", "Gather")))),
        ("onnxruntime-tensorrt", (TENSORRT, CUDA, CPU), ((TENSORRT, ("Conv",)), (CUDA, ("Conv", "Gemm")), (CPU, ("Shape",)))),
    ],
)
def test_cuda_comes_before_the_processor(
    with_gpu: type[Session], onnx_artifact: Artifact, runtime: str, providers: tuple[str, ...], layers: Any
) -> None:
    with_gpu.started, with_gpu.layers = providers, layers
    predictor = load(onnx_artifact.files, runtime)
    assert with_gpu.asked == (providers, 0)
    images = Images(2, seed=3).images(onnx_artifact.input_spec, onnx_artifact.preprocessing)
    np.testing.assert_allclose(predictor(images)["logits"], load(onnx_artifact.files, "openvino")(images)["logits"], atol=1e-4)
    assert f'InferenceSession(b["files"][0], providers={list(providers)})'.replace("'", '"') in readme(
        onnx_artifact, "classification", runtime
    )


@pytest.mark.parametrize(
    ("runtime", "started", "layers", "said"),
    [
        ("onnxruntime-cuda", (CPU,), ((CPU, ("Conv",)),), f"went on with {CPU}"),
        ("onnxruntime-tensorrt", (CUDA, CPU), ((CUDA, ("Conv",)),), f"went on with {CUDA}, {CPU}"),
        ("onnxruntime-cuda", (CUDA, CPU), ((CPU, ("Conv", "Gemm", "Relu")),), f"run 2 by {CPU}"),
        ("onnxruntime-cuda", (CUDA, CPU), ((CUDA, ("Gemm",)), (CPU, ("Conv",))), f"run 1 by {CUDA}, 1 by {CPU}"),
        ("onnxruntime-tensorrt", (TENSORRT, CUDA, CPU), ((TENSORRT, ("Relu",)), (CUDA, ("Conv",))), f"run 1 by {CUDA}"),
    ],
)
def test_a_fallback_is_an_error(
    with_gpu: type[Session], onnx_artifact: Artifact, runtime: str, started: tuple[str, ...], layers: Any, said: str
) -> None:
    with_gpu.started, with_gpu.layers = started, layers
    with pytest.raises(ExportError, match=said):
        load(onnx_artifact.files, runtime)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("runtime", GPU)
def test_this_very_build_falls_back_and_is_refused(onnx_artifact: Artifact, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(RuntimeMissingError):
        load(onnx_artifact.files, runtime)
    monkeypatch.setattr(RUNTIMES[runtime], "version", classmethod(lambda cls: "1"))
    with pytest.raises(ExportError, match=f"went on with {CPU}"):
        load(onnx_artifact.files, runtime)


def test_what_a_real_session_reports_is_understood(onnx_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(onnxruntime_runtime.PROVIDERS, "onnxruntime-cuda", (CPU,))
    with pytest.raises(ExportError, match=rf"run 7 by {CPU}"):
        load(onnx_artifact.files, "onnxruntime-cuda")
