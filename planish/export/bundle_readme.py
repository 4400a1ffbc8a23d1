"""The README of a bundle, with at most twelve lines of Python that run the model without Planish."""

from __future__ import annotations

from string import Template

from planish.artifact import Artifact
from planish.tasks.lines import lines

_TEXT = Template("""\
# $title

A $what of $classes classes, made by Planish: $summary.

- `$model` runs in $runtime. `bundle.json` holds classes, preprocessing, measurements and how the model was made.
- `golden/` holds image files and the outputs they must give; `reference.json` says what normal inputs and predictions look like.

## Check it on this machine

    planish verify .

## $heading

Needs `pip install $packages pillow numpy`. Images of more than 8 bits a channel need Planish, which scales them.

```python
$lines
```
""")

# The resize covers the input, the slices keep its middle; for a model that takes squashed images both sides fit at once.
_LINES = Template("""\
import json, sys, numpy as np, $imports
from PIL import Image, ImageOps
b = json.load(open("bundle.json", encoding="utf-8"))
im = ImageOps.exif_transpose(Image.open((sys.argv[1:] or b["golden"])[0], formats=["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]))
if im.has_transparency_data: im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im.convert("RGBA"))
im = im.convert("RGB")$grey
if min(im.size) > $side: im = im.resize([$side * s // min(im.size) for s in im.size], Image.Resampling.BILINEAR)
im = im.resize(($resized), Image.Resampling.BILINEAR)
x = np.asarray(im)[round((im.height - $h) / 2):, round((im.width - $w) / 2):][:$h, :$w].reshape(1, $h, $w, $channels)
$run
$said""")

_RESIZED = {"squash": "$w, $h", "crop": "max($w, $h * im.width // im.height), max($h, $w * im.height // im.width)"}

# By runtime: what to install, what to import, and one or two lines from pixels `x` in the file `$file` to `logits`.
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
}
# The same for models with several outputs, to those of the image by name, `y`.
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
}
_FILE = 'b["files"][0]'


def readme(artifact: Artifact, task: str, runtime: str) -> str:
    """The text of README.md for an exported artifact of a task of that name."""
    spec, source = artifact.input_spec, artifact.lineage.source.name
    # a runtime that others added has its own way to be called; ONNX files also run in ONNX Runtime
    package, imported, run = _RUN.get(runtime, _RUN["onnxruntime"])
    of_task = lines(task)
    if of_task.output != "logits":
        run = _NAMED.get(runtime, _NAMED["onnxruntime"])
    packed = artifact.format == "packed"  # only Planish knows how to open these
    code = Template(_LINES.safe_substitute(resized=_RESIZED[artifact.preprocessing.resize], run=run, said=of_task.printed)).substitute(
        imports=f"{imported}, planish.export.packed_file as packed" if packed else imported,
        file=f'packed.unpack(open({_FILE}, "rb").read())' if packed else _FILE,
        h=spec.height,
        w=spec.width,
        channels=spec.channels,
        side=artifact.preprocessing.decode_side,
        grey='.convert("L")' if spec.channels == 1 else "",
    )
    return _TEXT.substitute(
        title=source,
        what=of_task.what,
        classes=len(artifact.class_names),
        summary=" → ".join([source, *(step.technique for step in artifact.lineage.steps)]),
        model=artifact.files[0].name,
        runtime=runtime,
        heading="Run it in Python" if packed else "Run it without Planish",
        packages=f"{package} planish" if packed else package,
        lines=code,
    )
