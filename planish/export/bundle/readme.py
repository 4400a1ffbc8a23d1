"""The README of a bundle, with at most twelve lines of Python (seventeen for TensorRT) that run the model without Planish."""

from __future__ import annotations

import json
from string import Template

from planish.artifact import Artifact
from planish.export.runtimes.onnxruntime import PROVIDERS
from planish.export.runtimes.registry import registered
from planish.tasks.readme_text import lines

_TEXT = Template("""\
# $title

A $what of $classes classes, made by Planish: $summary.

- `$model` runs in $runtime. `bundle.json` holds classes, preprocessing, measurements and how the model was made.
- `golden/` holds image files and the outputs they must give; `reference.json` says what normal inputs and predictions look like.

## Check it on this machine

    planish verify .

The hashes in `bundle.json` show accidents: a damaged copy, a file left out, an edit forgotten. They do not stop a forger, who can make new
ones. Against that sign the bundle with `planish sign`, and check it with `planish verify . --public-key KEY`.
$danger
## Answer images over HTTP

    planish serve model=.

takes image files, forms with files, and JSON with base64 (`planish serve --help`), here as KServe's V1 protocol has it:

    curl --data-binary @photo.jpg localhost:8000/predict
    curl -F file=@photo.jpg localhost:8000/predict
    (echo '{"instances": [{"b64": "'; base64 photo.jpg; echo '"}]}') | curl -d @- localhost:8000/v1/models/model:predict

$use""")

_PYTHON = Template("""\
## $heading

Needs `pip install $packages pillow numpy`. Images of more than 8 bits per channel need Planish, which scales them.

```python
$lines
```
""")

_OWN_WAY = Template("""\
## Run it

`planish.export.runtimes.registry.load(["$model"], "$runtime")` opens the model in Python, and `planish serve .` answers images over HTTP.
""")

# The resized image covers the input size, and the slices take its centre; with ``squash`` it has exactly the input size already.
_LINES = Template("""\
import json, sys, numpy as np, $imports
from PIL import Image, ImageOps
b = json.load(open("bundle.json", encoding="utf-8"))
im = ImageOps.exif_transpose(Image.open((sys.argv[1:] or b["golden_samples"])[0], formats=["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]))
if im.has_transparency_data: im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im.convert("RGBA"))
im = im.convert("RGB")$grey
if min(im.size) > $side: im = im.resize([$side * s // min(im.size) for s in im.size], Image.Resampling.BILINEAR)
im = im.resize(($resized), Image.Resampling.BILINEAR)
x = np.asarray(im)[round((im.height - $h) / 2):, round((im.width - $w) / 2):][:$h, :$w].reshape(1, $h, $w, $channels)
$run
$said""")

_RESIZED = {"squash": "$w, $h", "crop": "max($w, $h * im.width // im.height), max($h, $w * im.height // im.width)"}

# Buffers must have the engine's own types and sizes, otherwise the GPU writes beyond their ends.
_TENSORRT = """\
r = tensorrt.Runtime(tensorrt.Logger()); e = r.deserialize_cuda_engine(open($file, "rb").read()); c = e.create_execution_context()
x = torch.from_numpy(x.copy()).cuda(); assert c.set_input_shape("images", tuple(x.shape))
kinds = {n: tensorrt.nptype(e.get_tensor_dtype(n)) for n in map(e.get_tensor_name, range(e.num_io_tensors)) if n != "images"}
y = {n: torch.from_numpy(np.zeros(tuple(c.get_tensor_shape(n)), kind)).cuda() for n, kind in kinds.items()}
assert all([c.set_tensor_address(n, t.data_ptr()) for n, t in {"images": x, **y}.items()])
s = torch.cuda.current_stream(); assert c.execute_async_v3(s.cuda_stream); s.synchronize()
"""

# By runtime: packages to install, imports, and the lines that compute `logits` from pixels `x` with the model `$file`.
_RUN = {
    "onnxruntime": ("onnxruntime", "onnxruntime", 'logits = onnxruntime.InferenceSession($file).run(None, {"images": x})[0]'),
    "openvino": (
        "openvino",
        "openvino",
        "model = openvino.Core().read_model($file)\n"
        'logits = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]',
    ),
    "litert": (
        "ai-edge-litert",
        "ai_edge_litert.interpreter as lite",
        'm = lite.Interpreter($file); m.allocate_tensors(); m.set_tensor(m.get_input_details()[0]["index"], x); m.invoke()\n'
        'o = m.get_output_details()[0]; s, z = o["quantization"]; logits = (m.get_tensor(o["index"]) - np.float32(z)) * (s or 1)',
    ),
    "executorch": (
        "executorch",
        "torch, executorch.runtime as et",
        'logits = et.Runtime.get().load_program($file).load_method("forward").execute([torch.from_numpy(x.copy())])[0].numpy()',
    ),
    "torch": ("torch", "torch", "logits = torch.export.load($file).module()(torch.from_numpy(x.copy())).detach().numpy()"),
    "jax": ("jax", "jax.export", 'logits = np.asarray(jax.export.deserialize(bytearray(open($file, "rb").read())).call(x)["logits"])'),
    "tensorrt": ("tensorrt torch", "torch, tensorrt", _TENSORRT + 'logits = y["logits"].cpu().numpy()'),
}
# The same lines for models with several outputs: `y` is a dict of the outputs of the one image.
_NAMED = {
    "onnxruntime": "s = onnxruntime.InferenceSession($file)\n"
    'y = {o.name: v[0] for o, v in zip(s.get_outputs(), s.run(None, {"images": x}))}',
    "openvino": "model = openvino.Core().read_model($file)\n"
    'y = {o.any_name: v[0] for o, v in openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x).items()}',
    "litert": "y = {k: v[0] for k, v in lite.Interpreter($file).get_signature_runner()(images=x).items()}",
    "executorch": "p = et.Runtime.get().load_program($file)\n"
    'found = p.load_method("forward").execute([torch.from_numpy(x.copy())])\n'
    'y = {k: v[0].numpy() for k, v in zip(json.loads(p.load_method("planish_outputs").execute([])[0]), found)}',
    "torch": "y = torch.export.load($file).module()(torch.from_numpy(x.copy()))\ny = {k: v[0].detach().numpy() for k, v in y.items()}",
    "jax": "y = {k: np.asarray(v)[0] for k, v in jax.export.deserialize(bytearray(open($file, 'rb').read())).call(x).items()}",
    "tensorrt": _TENSORRT + "y = {k: v[0].cpu().numpy() for k, v in y.items()}",
}
_HINT = ', {"INFERENCE_PRECISION_HINT": "f32"}'
_RUN["openvino-default"] = (*_RUN["openvino"][:2], _RUN["openvino"][2].replace(_HINT, ""))
_NAMED["openvino-default"] = _NAMED["openvino"].replace(_HINT, "")
for _runtime, _kind in PROVIDERS.items():
    _given = f"InferenceSession($file, providers={json.dumps(_kind)})"
    _RUN[_runtime] = ("onnxruntime-gpu", "onnxruntime", _RUN["onnxruntime"][2].replace("InferenceSession($file)", _given))
    _NAMED[_runtime] = _NAMED["onnxruntime"].replace("InferenceSession($file)", _given)
_FILE = 'b["files"][0]'


def readme(artifact: Artifact, task: str, runtime: str) -> str:
    """The text of README.md for an exported artifact.

    Args:
        artifact: the exported model.
        task: name of the task.
        runtime: name of the runtime that it is deployed in.
    """
    source, model = artifact.lineage.source.name, artifact.files[0].name
    known = runtime if runtime in _RUN else "onnxruntime" if artifact.format in ("onnx", "packed") else ""
    danger = registered()[runtime].danger if runtime in registered() else ""
    return _TEXT.substitute(
        title=source,
        what=lines(task).what,
        classes=len(artifact.class_names),
        summary=" → ".join([source, *(step.technique for step in artifact.lineage.steps)]),
        model=model,
        runtime=runtime,
        danger=f"\nOpen `{model}` only if you know where it comes from: {danger}.\n" if danger else "",
        use=_python(artifact, task, known) if known else _OWN_WAY.substitute(model=model, runtime=runtime),
    )


def _python(artifact: Artifact, task: str, runtime: str) -> str:
    """The section with the Python code."""
    spec, of_task = artifact.input_spec, lines(task)
    package, imported, run = _RUN[runtime]
    if of_task.output != "logits":
        run = _NAMED[runtime]
    packed = artifact.format == "packed"  # only Planish can unpack these
    code = Template(_LINES.safe_substitute(resized=_RESIZED[artifact.preprocessing.resize], run=run, said=of_task.printed)).substitute(
        imports=f"{imported}, planish.export.runtimes.packed_file as packed" if packed else imported,
        file=f'packed.unpack(open({_FILE}, "rb").read())' if packed else _FILE,
        h=spec.height,
        w=spec.width,
        channels=spec.channels,
        side=artifact.preprocessing.decode_side,
        grey='.convert("L")' if spec.channels == 1 else "",
    )
    return _PYTHON.substitute(
        heading="Run it in Python" if packed else "Run it without Planish",
        packages=f"{package} planish" if packed else package,
        lines=code,
    )
