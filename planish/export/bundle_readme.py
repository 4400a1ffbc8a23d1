"""The README of a bundle, with a dozen lines of Python that run the model without Planish."""

from __future__ import annotations

from string import Template

from planish.artifact import Artifact

_TEXT = Template("""\
# $title

A classifier of $classes classes, made by Planish: $summary.

- `$model` runs in $runtime. `bundle.json` holds classes, preprocessing, measurements and how the model was made.
- `golden/` holds image files and the outputs they must give; `reference.json` says what normal inputs and predictions look like.

## Check it on this machine

    planish verify .

## $heading

Needs `pip install $package pillow numpy`. Images of more than 8 bits a channel need Planish, which scales them.

```python
import json, sys
import numpy as np, $imports
from PIL import Image, ImageOps

b = json.load(open("bundle.json", encoding="utf-8"))
h, w, side = b["input_spec"]["height"], b["input_spec"]["width"], b["preprocessing"]["decode_side"]
im = ImageOps.exif_transpose(Image.open(sys.argv[1] if len(sys.argv) > 1 else b["golden"][0]))
if im.has_transparency_data:
    im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im.convert("RGBA"))
im = im.convert("RGB")$grey
if min(im.size) > side:
    im = im.resize([max(side, int(side * s / min(im.size))) for s in im.size], Image.Resampling.BILINEAR)
$resize
x = np.asarray(im, dtype=np.uint8).reshape(1, h, w, -1)
$run
print(b["class_names"][int(logits[0].argmax())])
```
""")

_SQUASH = "im = im.resize((w, h), Image.Resampling.BILINEAR)"
_CROP = """\
scale = max(w / im.width, h / im.height)
im = im.resize((max(w, int(im.width * scale)), max(h, int(im.height * scale))), Image.Resampling.BILINEAR)
left, top = round((im.width - w) / 2), round((im.height - h) / 2)
im = im.crop((left, top, left + w, top + h))"""

_RUN = {
    "onnxruntime": ("onnxruntime", 'logits = onnxruntime.InferenceSession(b["files"][0]).run(None, {"images": x})[0]'),
    "openvino": (
        "openvino",
        'model = openvino.compile_model(b["files"][0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})\nlogits = model(x)[0]',
    ),
}


def readme(artifact: Artifact, runtime: str) -> str:
    """The text of README.md for an exported artifact."""
    steps = " → ".join(step.technique for step in artifact.lineage.steps)
    # a runtime that others added has its own way to be called; ONNX files also run in ONNX Runtime
    package, run = _RUN.get(runtime, _RUN["onnxruntime"])
    imports, heading = package, "Run it without Planish"
    if artifact.format == "packed":
        package, heading = f"{package} planish", "Run it in Python"
        run = run.replace('b["files"][0]', 'unpacked(Path(b["files"][0]))')
        run = f"from pathlib import Path\nfrom planish.export.packed_file import unpacked\n{run}"
    return _TEXT.substitute(
        title=artifact.lineage.source.name,
        classes=len(artifact.class_names),
        summary=f"{artifact.lineage.source.name} → {steps}",
        model=artifact.files[0].name,
        runtime=runtime,
        package=package,
        imports=imports,
        heading=heading,
        grey='.convert("L")' if artifact.input_spec.channels == 1 else "",
        resize=_SQUASH if artifact.preprocessing.resize == "squash" else _CROP,
        run=run,
    )
