"""The part that runs on a device, with Python 3.9 or later, numpy and a runtime alone. It is sent there with ``latency_worker``.

``worker`` runs and times models, see ``latency_worker``; ``receive`` stores files that are sent; ``describe`` prints what the device is as
JSON; ``setup`` makes a virtual environment.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path("~/.cache/planish-device").expanduser()
ENVIRONMENT = ".local/share/planish-device"  # in the home folder: the virtual environment that ``setup`` makes
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
INSTRUCTION_SETS = {  # name in /proc/cpuinfo: name in results
    "avx2": "avx2", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16", "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8", "amx_bf16": "amx_bf16", "asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert", "numpy": "numpy"}


def load(files: list[str], runtime: str, threads: int, batch: int) -> Any:
    """Open a model with the same settings as ``planish.export.runtimes``.

    Returns:
        A function of a batch of images, uint8 ``(N, H, W, C)``, that returns the outputs by name.
    """
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if _cpuinfo() and saturates(platform.machine(), _instruction_sets()):
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
        except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:  # there are no exact kernels for it, see planish.devices.kernels
            options.add_session_config_entry("session.x64quantprecision", "0")
            session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
        given, found = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
        return lambda images: dict(zip(found, session.run(found, {given: images})))  # noqa: B905 Python 3.9 has no strict
    if runtime in ("openvino", "openvino-default"):
        import openvino

        core = openvino.Core()
        model = core.read_model(files[0])
        shape = model.input(0).get_partial_shape()
        shape[0] = batch
        model.reshape(shape)
        settings = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": str(threads)}
        precision = {} if runtime == "openvino-default" else {"INFERENCE_PRECISION_HINT": "f32"}
        request = core.compile_model(model, "CPU", {**precision, **settings}).create_infer_request()
        names = [port.get_any_name() if port.get_names() else port.get_node().get_friendly_name() for port in model.outputs]

        def infer(images: Any) -> dict[str, Any]:
            results = request.infer({0: images}, share_inputs=True)
            return {name: results[i] for i, name in enumerate(names)}

        return infer
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(files[0], num_threads=threads)
        outputs = interpreter.get_signature_runner().get_output_details()
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, (batch, *interpreter.get_input_details()[0]["shape"][1:]))
        interpreter.allocate_tensors()

        def values(output: Any) -> Any:
            found, (scale, zero) = interpreter.get_tensor(output["index"]), output["quantization"]
            return (found.astype("float32") - zero) * scale if scale else found

        def invoke(images: Any) -> dict[str, Any]:
            interpreter.set_tensor(place, images)
            interpreter.invoke()
            return {"logits" if name == "output_0" else name: values(output) for name, output in outputs.items()}

        return invoke
    raise ValueError(f"{runtime} is not supported on a device")


def setup(wheels: str, packages: list[str]) -> None:
    """Make the virtual environment ``ENVIRONMENT``, in the place of the one that was there.

    Args:
        wheels: folder that all packages are installed from; empty for PyPI.
        packages: to install.
    """
    if find_spec("ensurepip") is None:
        sys.exit("this Python makes no virtual environments; on Debian and Ubuntu run: sudo apt-get install python3-venv")
    environment = Path.home() / ENVIRONMENT
    partial = environment.with_name(environment.name + ".partial")  # renamed once it is complete
    shutil.rmtree(partial, ignore_errors=True)
    source = ["--no-index", "--find-links", wheels] if wheels else []
    commands = [
        [sys.executable, "-m", "venv", str(partial)],
        [str(partial / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *source, *packages],
    ]
    for command in commands:
        if code := subprocess.run(command, stdout=sys.stderr, stdin=subprocess.DEVNULL, check=False).returncode:
            sys.exit(code)  # what it printed says why
    shutil.rmtree(environment, ignore_errors=True)
    partial.rename(environment)


def saturates(architecture: str, instruction_sets: Iterable[str]) -> bool:
    """Whether integer kernels overflow with 8-bit weights; see ``planish.devices.machine.saturates``."""
    x86 = architecture.lower() in ("x86_64", "amd64", "i686")
    return x86 and not any("vnni" in name or name == "amx_int8" for name in instruction_sets)


def describe() -> dict[str, Any]:
    """The processor, memory, versions of runtimes, and the state that latency depends on: frequency, governor, temperature."""
    info = _cpuinfo()
    model = next((info[key] for key in ("model name", "Model", "Hardware") if key in info), "") or _read("/proc/device-tree/model")
    found: dict[str, Any] = {
        "cpu": model.strip("\0 ") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "logical_cores": os.cpu_count() or 1,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "free_disk_bytes": shutil.disk_usage(os.path.expanduser("~")).free,
        "instruction_sets": " ".join(_instruction_sets()),
        "os": platform.platform(),
        "python": platform.python_version(),
    }
    from importlib import metadata

    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = ""
    return {**found, **state()}


def state() -> dict[str, Any]:
    """Load, and where the system has them, frequency, governor and the highest temperature."""
    found: dict[str, Any] = {"load_average": round(os.getloadavg()[0], 2)}
    folder = "/sys/devices/system/cpu/cpu0/cpufreq/"
    if mhz := _read(folder + "scaling_cur_freq"):
        found["frequency_mhz"] = round(int(mhz) / 1000)
    if governor := _read(folder + "scaling_governor"):
        found["governor"] = governor
    zones = [_read(path) for path in glob.glob("/sys/class/thermal/thermal_zone*/temp")]
    degrees = [int(text) / 1000 for text in zones if text.lstrip("-").isdigit()]
    if degrees:
        found["temperature_celsius"] = max(degrees)
    return found


def receive(limit_bytes: int, kept_seconds: float) -> None:
    """Store files from stdin under the hash of their content.

    Beyond ``limit_bytes`` those used longest ago are removed, but none that was used in the last ``kept_seconds``: it may be timed next.

    Stdin is a line with a JSON list of ``[folder, name, size, sha256]``; then, after the indices of the missing files were printed as a
    line of JSON, each of these: eight bytes with a length, and as many of zlib. The paths of all files are printed as a last line of JSON.
    """
    wanted = json.loads(sys.stdin.buffer.readline())
    paths = [FOLDER / folder / name for folder, name, _, _ in wanted]
    missing = [i for i, path in enumerate(paths) if not (path.is_file() and path.stat().st_size == wanted[i][2])]
    print(json.dumps(missing), flush=True)
    for i in missing:
        paths[i].parent.mkdir(parents=True, exist_ok=True)
        partial, digest, unpacked = paths[i].with_suffix(f".{os.getpid()}.partial"), hashlib.sha256(), zlib.decompressobj()
        left = int.from_bytes(sys.stdin.buffer.read(8), "big")
        with partial.open("wb") as file:
            while left:
                data = sys.stdin.buffer.read(min(left, 1 << 20))
                if not data:
                    raise EOFError("the connection ended")
                left -= len(data)
                content = unpacked.decompress(data)
                digest.update(content)
                file.write(content)
        if digest.hexdigest() != wanted[i][3]:
            raise ValueError(f"{paths[i].name} arrived damaged")
        partial.replace(paths[i])
    for path in paths:
        os.utime(path.parent)
    _evict(limit_bytes, {path.parent for path in paths}, time.time() - kept_seconds)
    print(json.dumps([str(path) for path in paths]), flush=True)


def _evict(limit_bytes: int, kept: set[Path], used_since: float) -> None:
    folders = sorted((p for p in FOLDER.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > limit_bytes and folder not in kept and folder.stat().st_mtime < used_since:
            shutil.rmtree(folder, ignore_errors=True)


def _cpuinfo() -> dict[str, str]:
    pairs = (line.split(":", 1) for line in _read("/proc/cpuinfo").splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _instruction_sets() -> list[str]:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in flags]


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def main() -> None:
    do = sys.argv[1]
    if do == "worker":
        import_module("planish.devices.latency_worker").main()
    elif do == "receive":
        receive(int(sys.argv[2]), float(sys.argv[3]))
    elif do == "setup":
        setup(sys.argv[2], sys.argv[3:])
    else:
        print(json.dumps({"describe": describe, "state": state}[do]()))


if __name__ == "__main__":
    main()
