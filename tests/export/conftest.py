import pytest
from export_fakes import FakeTask, trained

from planish.artifact import Artifact
from planish.compression import Int8
from planish.export import ToOnnx


@pytest.fixture(scope="session")
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture(scope="session")
def network(task: FakeTask) -> Artifact:
    return trained(task)


@pytest.fixture(scope="session")
def onnx_artifact(network: Artifact, task: FakeTask) -> Artifact:
    return ToOnnx().apply(network, task)


@pytest.fixture(scope="session")
def int8_artifact(onnx_artifact: Artifact, task: FakeTask) -> Artifact:
    return Int8().apply(onnx_artifact, task)
