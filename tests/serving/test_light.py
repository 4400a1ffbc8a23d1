"""A machine that only runs models has no torch: a bundle is served and checked without it, and without what else training needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import sys

class Absent:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "timm", "accelerate", "onnx", "onnxscript", "jinja2"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent)
from fastapi.testclient import TestClient
from planish.cli import main
from planish.serving.http.app import service
from planish.serving.serve import open_models

bundle = sys.argv[1]
with TestClient(service(open_models([bundle]))) as client:
    with open(f"{bundle}/golden/000.png", "rb") as image:
        answer = client.post("/predict", content=image.read())
    assert answer.status_code == 200, answer.text
main(["verify", bundle])
"""


def test_serving_and_verifying_import_no_torch(bundle: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "4 golden samples give the known outputs" in done.stdout
    assert "latency: " in done.stdout
