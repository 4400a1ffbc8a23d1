"""The part that runs on a device, with Python 3.9 or later, numpy and a runtime alone. It is sent there with ``latency_worker``.

``worker`` times one model, see ``latency_worker``; ``receive`` stores files that are sent; ``describe`` prints what the device is as JSON.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path("~/.cache/planish-device").expanduser()
RUNTIMES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}
INSTRUCTION_SETS = {  # name in /proc/cpuinfo: name in results
    "avx2": "avx2", "avx512f": "avx512f", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16", "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8", "amx_bf16": "amx_bf16", "asimddp": "dotprod", "i8mm": "i8mm", "sve": "sve",
}  # fmt: skip
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert", "numpy": "numpy"}


def load(files: list[str], runtime: str, threads: int, batch: int) -> Any:
    """Open a model with the same settings as ``planish.export.runtimes``; returns a function of uint8 images ``(N, H, W, C)``."""
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        session = onnxruntime.InferenceSession(files[0], options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: session.run(None, {name: images})
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
        return lambda images: request.infer({0: images}, share_inputs=True)
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(files[0], num_threads=threads)
        place = interpreter.get_input_details()[0]["index"]
        interpreter.resize_tensor_input(place, (batch, *interpreter.get_input_details()[0]["shape"][1:]))
        interpreter.allocate_tensors()

        def run(images: Any) -> None:
            interpreter.set_tensor(place, images)
            interpreter.invoke()

        return run
    raise ValueError(f"{runtime} is not supported on a device")


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


def receive(limit_bytes: int) -> None:
    """Store files from stdin under the hash of their content, and remove those used longest ago beyond ``limit_bytes``.

    Stdin is a line with a JSON list of ``[folder, name, size, sha256]``; then, after the indices of the missing files were printed as a
    line of JSON, their bytes. The paths of all files are printed as a last line of JSON.
    """
    wanted = json.loads(sys.stdin.buffer.readline())
    paths = [FOLDER / folder / name for folder, name, _, _ in wanted]
    missing = [i for i, path in enumerate(paths) if not (path.is_file() and path.stat().st_size == wanted[i][2])]
    print(json.dumps(missing), flush=True)
    for i in missing:
        paths[i].parent.mkdir(parents=True, exist_ok=True)
        partial, digest, left = paths[i].with_suffix(f".{os.getpid()}.partial"), hashlib.sha256(), wanted[i][2]
        with partial.open("wb") as file:
            while left:
                data = sys.stdin.buffer.read(min(left, 1 << 20))
                if not data:
                    raise EOFError("the connection ended")
                digest.update(data)
                file.write(data)
                left -= len(data)
        if digest.hexdigest() != wanted[i][3]:
            raise ValueError(f"{paths[i].name} arrived damaged")
        partial.replace(paths[i])
    for path in paths:
        os.utime(path.parent)
    _evict(limit_bytes, {path.parent for path in paths})
    print(json.dumps([str(path) for path in paths]), flush=True)


def _evict(limit_bytes: int, kept: set[Path]) -> None:
    folders = sorted((p for p in FOLDER.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    total = 0
    for folder in folders:
        total += sum(file.stat().st_size for file in folder.iterdir())
        if total > limit_bytes and folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _cpuinfo() -> dict[str, str]:
    pairs = (line.split(":", 1) for line in _read("/proc/cpuinfo").splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _instruction_sets() -> list[str]:
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return [name for flag, name in INSTRUCTION_SETS.items() if flag in flags]


def _saturates() -> bool:
    """See ``planish.devices.machine.saturates``."""
    x86 = platform.machine().lower() in ("x86_64", "amd64", "i686")
    return x86 and bool(_cpuinfo()) and not any("vnni" in name or name == "amx_int8" for name in _instruction_sets())


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
        receive(int(sys.argv[2]))
    else:
        print(json.dumps({"describe": describe, "state": state}[do]()))


if __name__ == "__main__":
    main()
