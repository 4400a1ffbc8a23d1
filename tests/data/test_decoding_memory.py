"""What decoding reserves is what it needs: the peak memory of a process of its own that decodes large images, format by format."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (3000, 1500)
ALLOWANCE = 6e6  # bytes beside the image: strips, buffers, the allocator
_PROGRAM = """
import json, os, sys
from pathlib import Path
from planish.data.preprocessing import decode_with_size

def peak():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))

for path in sorted(Path(sys.argv[1]).iterdir()):
    data, reserved = path.read_bytes(), []
    if os.fork():  # each image in a process of its own, which has freed nothing that it could use again
        os.wait()
        continue
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = peak()
    decode_with_size(data, 3 if "RGB" in path.name else 1, 10**6, reserve=reserved.append)
    print(json.dumps([path.name, peak() - before, *reserved]), flush=True)
    os._exit(0)
"""


def _images() -> dict[str, bytes]:
    ramp = Image.linear_gradient("L").resize(SIZE)
    deep = Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint32).astype(np.uint16).reshape(SIZE[::-1]))
    exif = Image.Exif()
    exif[274] = 6  # is turned, which needs a copy
    saved = {
        "png-deep": (deep, {"format": "PNG"}), "png-deep-RGB": (deep, {"format": "PNG"}), "tiff-deep": (deep, {"format": "TIFF"}),
        "png-RGB-turned": (ramp.convert("RGB"), {"format": "PNG", "exif": exif}),
        "png-RGBA": (ramp.convert("RGBA"), {"format": "PNG"}),
        "jpeg-RGB-progressive": (ramp.convert("RGB"), {"format": "JPEG", "progressive": True, "subsampling": 0, "exif": exif}),
        "jpeg-CMYK-RGB": (ramp.convert("CMYK"), {"format": "JPEG", "progressive": True}),
        "tiff-RGB-one-strip": (ramp.convert("RGB"), {"format": "TIFF", "compression": "tiff_lzw", "strip_size": 1 << 30}),
        "webp-RGB": (ramp.convert("RGBA"), {"format": "WEBP", "method": 0}),
        "jp2-RGB": (ramp.convert("RGBA"), {"format": "JPEG2000"}),
        "avif-RGB": (ramp.convert("RGBA"), {"format": "AVIF", "speed": 10, "subsampling": "4:4:4"}),
    }  # fmt: skip
    found = {}
    for name, (image, options) in saved.items():
        file = io.BytesIO()
        image.save(file, **options)
        found[name] = file.getvalue()
    return found


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
def test_decoding_needs_no_more_than_it_reserves(tmp_path: Path) -> None:
    images = _images()
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    done = subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {name: (peak, reserved) for name, peak, reserved in lines}
    assert len(found) == len(images)
    pixels = SIZE[0] * SIZE[1]
    print({name: f"{peak / pixels:.1f} of {reserved / pixels:.1f} bytes a pixel" for name, (peak, reserved) in found.items()})
    for name, (peak, reserved) in found.items():
        assert peak < reserved + ALLOWANCE, (name, peak / pixels, reserved / pixels)
    assert found["png-deep"][0] / pixels < 8, "in 64-bit integers it was 18"


def test_strips_change_no_pixel() -> None:
    """Images of many strips are what a conversion as a whole makes of them, and 16 bits are scaled as by exact division."""
    from planish.data.preprocessing import decode

    values = np.random.default_rng(0).integers(0, 65536, (1200, 900), np.uint16)
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    exact = (values.astype(np.int64) * 255 + 32767) // 65535
    assert (decode(file.getvalue(), 1, 10_000)[..., 0] == exact).all()
    rgba = Image.fromarray(np.random.default_rng(1).integers(0, 256, (1200, 900, 4), np.uint8), "RGBA")
    file = io.BytesIO()
    rgba.save(file, "PNG")
    whole = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    assert (decode(file.getvalue(), 3, 10_000) == np.asarray(whole)).all()
