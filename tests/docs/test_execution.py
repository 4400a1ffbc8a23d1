"""The commands and the Python code of the pages are executed: quick ones as they stand, the others with fewer epochs (``slow``)."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blocks import DOCS, NAMES, PROJECT, Block, blocks, command_lines
from workspace import write_workspace

QUICK = ("alert-rules", "data", "doctor", "explain", "recipes", "sign", "tile", "verify")
# Not executed: installations, other services, extras that are not installed, and what needs a long run (tests of these have their own).
ELSEWHERE = (
    "git", "pip", "make", "planish demo", "planish install-completion", "planish monitor http:", "planish export model photos/ --to litert",
    "planish push", "planish pull", "planish verify hf:", "planish serve photos=photos-model", "planish check plan.yaml recipe.yaml",
    "planish serve photos=runs/photos photos@2", "planish retrain", "planish report",
    "planish train discs.csv", "planish optimize discs.csv", "planish device-setup",
    "planish optimize photos/ --max-latency 30ms --device", "planish verify runs/board",
    "planish optimize images/ --model torchvision:mobilenet_v3_large", "planish optimize images/ --model network.onnx --task outputs",
    "accelerate launch", "torchrun", "planish verify program", "ray start", "planish worker",
    "planish synthesize", "planish compress torchvision:mobilenet_v2 synthesized",
)  # fmt: skip
ON_OTHER_MACHINES = (  # a Raspberry Pi, a Jetson, a phone, a server without internet
    "cp", "scp", "export", "python3 -m venv", "litert/bin/pip", "planish doctor --device", "planish optimize photos/ --device",
    "planish verify bundle", "planish serve bundle", "planish export model photos/ --to tensorrt", "planish verify engine",
    "planish bench model-onnx engine", "planish compress model photos/ --plan plan.yaml --out phone",
)  # fmt: skip
# Options that take long, with what they become; None for options that are left out.
SHORTER = {
    "--budget": "20s", "--epochs": "1", "--recovery-epochs": "1", "--seeds": "2", "--folds": "2", "--repeats": "1", "--shots": "1,2",
    "--weights": None, "--mean": "0.31", "--std": "0.21", "--risk": None,
    "--track": None, "--workers": None,
}  # fmt: skip
TRAINS = (
    "optimize",
    "train",
    "compress",
    "label-issues",
    "learning-curve",
    "few-shot",
    "crossval",
    "experiment",
    "ensembles",
    "compare",
    "retrain",
)
PAGES = {name: page for name, page in NAMES.items() if page.is_relative_to(DOCS) and blocks(page, "sh", "python")}
_OWN = ("net.py:make", "classifier.onnx", "resnet8")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "workspace"))


def executed(words: list[str]) -> bool:
    return not " ".join(words).startswith((*ELSEWHERE, *ON_OTHER_MACHINES))


def execute(words: list[str], folder: Path, codes: tuple[int, ...] = (0,)) -> None:
    command = [sys.executable, "-m", *words] if words[0] == "planish" else words
    command = ["5s" if word == "5ms" else word for word in command]  # nothing depends on how busy the machine is
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=500)
    assert done.returncode in codes, f"{shlex.join(words)}: exit code {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}


def shorter(words: list[str]) -> list[str]:
    """Return the command for tiny images: small networks without pretrained weights, and few epochs."""
    given = [*words[:2]]
    rest = iter(words[2:])
    for word in rest:
        if word not in SHORTER and word != "--model":
            given.append("photos/" if word == "fashion-mini" else word)
            continue
        value: str | None = next(rest)
        if word == "--model":
            value = value if value in _OWN else "resnet8"
        elif word == "--weights" and value == "net.pth":
            pass
        else:
            value = SHORTER[word]
        if value is not None:
            given += [word, value]
    if words[1] == "few-shot":
        given[given.index("--model") :] = ["--model", "net.py:make", "--weights", "net.pth", "--draws", "2"]
    if words[1] in ("train", "label-issues", "crossval") and "--epochs" not in given:
        given += ["--epochs", "1"]
    if words[1] == "optimize" and "--budget" not in given:
        given += ["--budget", "20s"]
    return given


@pytest.mark.parametrize("name", PAGES)
def test_quick_commands_succeed(name: str, workspace: Path) -> None:
    known = {"photos/", "boxes/", "cells/", "runs/photos", "classifier.onnx"}
    for block in blocks(PAGES[name], "sh"):
        for words in command_lines(block.text):
            quick = words[0] == "openssl" or (words[0] == "planish" and words[1] in QUICK)
            if quick and executed(words) and (words[0] == "openssl" or len(words) < 3 or words[2] in known):
                execute(words, workspace)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_every_command_and_script_succeeds(name: str, workspace: Path) -> None:
    """In the order of the page; a service that a block starts runs until the next one is started."""
    with services(workspace) as serve:
        for block in blocks(PAGES[name], "sh", "python", "yaml"):
            if block.language == "yaml":
                (workspace / "plan.yaml").write_text(block.text)
            elif block.language == "python":
                run_script(block, workspace, serve.address)
            else:
                for words in command_lines(block.text):
                    run_command(words, workspace, serve)


class Services:
    """The service that a page has started last."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, words: list[str]) -> None:
        """Start the service on a free port, and send it some photos."""
        self.stop()
        file = self.folder / "address"
        command = [sys.executable, "-m", *words, "--port", "0", "--address-file", str(file)]
        if "--port" in words:
            command = [*command[: command.index("--port")], *command[command.index("--port") + 2 :]]
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(600):
            if file.exists() and (address := file.read_text().strip()):
                break
            time.sleep(0.1)
        self.address = address
        for photo in sorted(self.folder.joinpath("photos").rglob("*.png"))[::10]:
            execute(["curl", "--fail", "--silent", "--data-binary", f"@{photo}", f"{address}/predict"], self.folder)

    def stop(self) -> None:
        """End the service."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            (self.folder / "address").unlink(missing_ok=True)
            self.process = None


@contextmanager
def services(folder: Path) -> Iterator[Services]:
    started = Services(folder)
    try:
        yield started
    finally:
        started.stop()


def run_script(block: Block, folder: Path, address: str) -> None:
    text = block.text.replace('"10m"', '"20s"').replace("epochs=20", "epochs=1").replace('"epochs": 10', '"epochs": 1')
    (folder / "script.py").write_text(text.replace("localhost:8000", address.removeprefix("http://")))
    if "Conformance" not in block.text:  # a test class, which tests/examples and tests/export execute
        if '"model"' in block.text:
            shutil.rmtree(folder / "model", ignore_errors=True)
        execute([sys.executable, "script.py"], folder)


def run_command(words: list[str], folder: Path, serve: Services) -> None:
    if not executed(words):
        return
    if words[:2] == ["planish", "serve"]:
        serve.start(words)
    elif words[0] == "curl":
        execute([word.replace("localhost:8000", serve.address) for word in (*words, "--fail", "--silent", "--show-error")], folder)
    elif words[0] == "planish":
        if words[1] in TRAINS and "--out" in words:
            shutil.rmtree(folder / words[words.index("--out") + 1], ignore_errors=True)
        codes = (0, 1, 2) if words[1] == "monitor" else (0, 1) if words[1] == "optimize" else (0,)
        execute(shorter(words) if words[1] in TRAINS or "--mean" in words else words, folder, codes)
    else:
        execute(words, folder)
