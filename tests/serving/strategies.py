"""Requests that nobody should send: images, tensors and HTTP, damaged in every way, as the bytes that go through the socket."""

from __future__ import annotations

import io
import json
import struct
import zlib
from typing import Any

from hypothesis import strategies as st
from PIL import Image

SHAPE = [24, 24, 1]
ODD_TEXT = st.text(max_size=20) | st.sampled_from(
    ["..%2f..", "%00", "%ff%fe", "%ud800", "shapes%20", "1e9", "-1", "a" * 3000, "😀", "shapes/../x"]
)
SURROGATE = "\ud800"


def message(path: str, body: bytes, headers: dict[str, str] | None = None, method: str = "POST") -> bytes:
    """A request as bytes, whatever is in it."""
    lines = [f"{method} {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}"] + [f"{k}: {v}" for k, v in (headers or {}).items()]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body


def _files() -> list[bytes]:
    found = []
    ramp = Image.linear_gradient("L").resize((40, 30))
    for kind, modes in {
        "PNG": ("L", "RGB", "RGBA", "P", "1", "I;16", "LA"), "JPEG": ("L", "RGB", "CMYK"), "GIF": ("P", "L"), "BMP": ("RGB", "1"),
        "PPM": ("RGB", "L"), "TIFF": ("L", "RGB", "CMYK", "I;16", "1", "F"), "WEBP": ("RGB", "RGBA"), "JPEG2000": ("L", "RGB"),
        "AVIF": ("RGB",),
    }.items():  # fmt: skip
        for mode in modes:
            file = io.BytesIO()
            (ramp.convert("I").convert(mode) if mode == "I;16" else ramp.convert("RGB").convert(mode)).save(file, kind)
            found.append(file.getvalue())
    return found


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 1) -> bytes:
    """A black image in a small file; further chunks stand before the pixels."""
    rows = zlib.compress(bytes((1 + (width * bits + 7) // 8) * min(height, 2_000_000 // max(1, width // 8))), 9)
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


BOMBS = [
    bytes(400_000),
    _png(60_000, 60_000), _png(1, 900_000), _png(900_000, 1), _png(2**31 - 1, 2**31 - 1), _png(0, 0), _png(1000, 1000),
    _png(30, 30, (b"zTXt", b"a\0\0" + zlib.compress(bytes(80_000_000), 9))),
    _png(30, 30, (b"iCCP", b"a\0\0" + zlib.compress(bytes(80_000_000), 9))),
    _png(30, 30, (b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 400)),
    b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x02\x00;",
    b"P6 99999 99999 255\n", b"P5 -1 5 255\n", b"P4 999999999999999999999 1\n", b"BM" + b"\xff" * 60,
    b"II*\0\x08\0\0\0" + struct.pack("<H", 3) + struct.pack("<HHII", 256, 4, 1, 900) + struct.pack("<HHII", 257, 4, 1, 900) + b"\xff" * 16,
]  # fmt: skip
FILES = _files()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """An image file, cut, overwritten, or with noise in it; some are whole."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from(BOMBS) | st.binary(max_size=200))
    data = bytearray(draw(st.sampled_from(FILES)))
    for place, value in draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=8)):
        data[place % len(data)] = value
    place = draw(st.integers(0, len(data)))
    data[place:place] = draw(st.binary(max_size=40))
    return bytes(data[: draw(st.just(len(data)) | st.integers(0, len(data)))])


CONTENT_TYPES = st.sampled_from(
    ["image/png", "application/json", "multipart/form-data; boundary=x", "text/plain; charset=utf-99", "", "///"]
)


@st.composite
def image_requests(draw: st.DrawFn) -> bytes:
    model = draw(st.sampled_from(["/predict", "/models/shapes/predict"] * 3 + [""])) or f"/models/{draw(ODD_TEXT)}/predict"
    version = draw(
        st.just("")
        | st.just("")
        | ODD_TEXT.map(lambda text: f"?version={text}")
        | st.sampled_from(["?why=true", "?why=x", "?version=1&version=2"])
    )
    return message(_one_line(model + version), draw(damaged()), {"Content-Type": draw(CONTENT_TYPES)})


_NUMBERS = st.sampled_from([0, -1, 255, 256, 1e400, float("nan"), 10**4200, 2**63, 0.5, True, None, "7", SURROGATE, [], {}, [[1], [2, 3]]])
_ANYTHING = st.recursive(
    _NUMBERS | st.text(max_size=5), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
)


@st.composite
def tensor_requests(draw: st.DrawFn) -> bytes:
    """The protocol's requests: a right one, of which some parts are changed or missing."""
    count = draw(st.integers(1, 3))
    binary, size = draw(st.booleans()), count * SHAPE[0] * SHAPE[1] * SHAPE[2]
    tensor: dict[str, Any] = {"name": "images", "datatype": "UINT8", "shape": [count, *SHAPE]}
    tensor |= {"parameters": {"binary_data_size": size}} if binary else {"data": [7] * size}
    request: dict[str, Any] = {"inputs": [tensor], "id": "a"}
    changes = st.sampled_from(
        ["name", "datatype", "shape", "data", "parameters", "binary_data_size", "inputs", "outputs", "id", "all", "first"]
    )
    for change in draw(st.lists(changes, max_size=2)):
        value = draw(_ANYTHING)
        if change in ("inputs", "outputs", "id"):
            request[change] = value
        elif change == "binary_data_size":
            tensor["parameters"] = {change: value}
        elif change == "first":
            tensor["shape"] = [value, *SHAPE]
        elif change == "all":
            request["outputs"] = [{"name": value, "parameters": value}]
        else:
            tensor[change] = value
    head = json.dumps(request).encode()
    blob = bytes(draw(st.sampled_from([size, size, size - 1, size + 1, 0]))) if binary else b""
    head = head[: draw(st.sampled_from([len(head)] * 5 + [len(head) // 2, 0]))]
    length = draw(st.sampled_from([str(len(head))] * 6 + ["-1", "9" * 5000, "²", "", "1e3", "0", str(len(head) + 10**6)]))
    headers = {"Inference-Header-Content-Length": length} if binary else {}
    name = draw(st.just("shapes") | st.just("shapes") | ODD_TEXT)
    version = draw(st.just("") | st.just("/versions/1") | ODD_TEXT.map(lambda text: f"/versions/{text}"))
    return message(_one_line(f"/v2/models/{name}{version}/infer"), head + blob, headers | {"Content-Type": draw(CONTENT_TYPES)})


@st.composite
def raw_requests(draw: st.DrawFn) -> bytes:
    """What is hardly HTTP."""
    good = message("/predict", FILES[0])
    kind = draw(st.integers(0, 8))
    noise = draw(st.binary(min_size=1, max_size=300))
    if kind == 0:
        return noise + b"\r\n\r\n"
    if kind == 1:
        return good + noise + b"\r\n\r\n"  # pipelined
    if kind == 2:
        return message("/predict", FILES[0], {"X-Large": "a" * draw(st.integers(1000, 200_000))})
    if kind == 3:
        return message("/predict", FILES[0], {f"X-{i}": "b" for i in range(draw(st.integers(1, 3000)))})
    if kind == 4:
        chunks = draw(
            st.sampled_from(
                [b"5\r\nabcde\r\n0\r\n\r\n", b"zz\r\n\r\n\r\n", b"-1\r\n\r\n\r\n", b"ffffffffffffffffffff\r\n" + noise + b"\r\n\r\n"]
            )
        )
        return b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    if kind == 5:
        return message(
            "/" + _one_line(draw(ODD_TEXT)), noise, method=draw(st.sampled_from(["GET", "PUT", "HEAD", "OPTIONS", "BREW", "get", "TRACE"]))
        )
    if kind == 6:
        return good.replace(b"HTTP/1.1", draw(st.sampled_from([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"ICY"])))
    if kind == 7:
        upgrade = {
            "Connection": "Upgrade",
            "Upgrade": draw(st.sampled_from(["websocket", "h2c", "x"])),
            "Sec-WebSocket-Key": "x",
            "Sec-WebSocket-Version": "13",
        }
        return message(draw(st.sampled_from(["/", "/page/page.js", "/predict"])), b"", upgrade, method="GET")
    return message("/predict", FILES[0], {"Content-Length": draw(st.sampled_from(["-1", "x", "1, 2", "99999999999999999999"]))})


def _one_line(text: str) -> str:
    return text.replace("\r", "").replace("\n", "")
