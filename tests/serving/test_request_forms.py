"""The forms in which people send images: each is answered as the file itself, or refused by name."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from planish.serving.http.app import service
from planish.serving.limits import Limits
from planish.serving.monitoring.recorder import IMAGES, LogSettings, Recorder
from planish.serving.monitoring.records import records
from planish.serving.serve import open_models

MOST = 200_000  # bytes


@pytest.fixture(scope="module")
def client(bundle: Path) -> Iterator[TestClient]:
    limits = Limits(max_bytes=MOST, max_pixels=100_000, max_queue=8, max_batch=4)
    with TestClient(service(open_models([f"shapes={bundle}", f"shapes@2={bundle}"]), limits)) as one:
        yield one


@pytest.fixture(scope="module")
def files(bundle: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted((bundle / "golden").glob("*.png"))]


def ask(client: TestClient, body: Any, content_type: str | None = None, path: str = "/predict", **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()} | ({"Content-Type": content_type} if content_type else {})
    return client.post(path, content=body if isinstance(body, bytes) else json.dumps(body).encode(), headers=named)


def refusal(answer: Any, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


def form(*parts: tuple[str, bytes], boundary: bytes = b"--XyZ") -> bytes:
    return b"".join(b"--%b\r\n%b\r\n\r\n%b\r\n" % (boundary, head.encode(), data) for head, data in parts) + b"--" + boundary + b"--\r\n"


FILE = 'Content-Disposition: form-data; name="{}"; filename="a.png"\r\nContent-Type: image/png'
FIELD = 'Content-Disposition: form-data; name="{}"'


def test_one_image_is_answered_in_every_form(client: TestClient, files: list[bytes]) -> None:
    data = files[0]
    expected = client.post("/predict", content=data).json()
    plain, url_safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    lines = base64.encodebytes(data).decode()
    url = f"data:image/png;base64,{plain}"
    form_type = "multipart/form-data; boundary=--XyZ"
    bodies: list[tuple[Any, str | None]] = [
        (data, None), (data, "image/jpeg"), (data, "application/json"), (data, "text/html"), (data, "///"), (data, "image/heic"),
        (data, "application/x-www-form-urlencoded"), (data, "multipart"),
        *((text.encode(), None) for text in (plain, url_safe, lines, plain.rstrip("="), url, f"  {url}\n")), (url.encode(), "text/plain"),
        *(({"image": text}, "application/json") for text in (plain, url_safe, lines, lines.replace("\n", "\r\n"), url, plain.rstrip("="))),
        ({"image": url.replace("+", "%2B").replace("/", "%2f").replace("image%2fpng", "image/png")}, "application/json"),
        ({"data": plain}, "text/plain"), ({"image": {"b64": plain}}, None), (json.dumps(plain).encode(), "application/json"),
        (json.dumps({"image": plain}).replace("/", "\\/").replace("=", "\\u003d").encode(), "application/json"),
        (b"\xef\xbb\xbf" + json.dumps({"image": plain}).encode(), "application/json; charset=utf-8"),
        (b' {"image" : "%b" , "signature_name": "serving_default"} ' % plain.encode(), "application/vnd.api+json"),
        (form((FILE.format("file"), data)), form_type), (form((FILE.format("anything"), data)), "multipart/form-data"),
        (form((FILE.format("file"), data)), "image/png"), (form((FILE.format("file"), data)), None),
        (form((FIELD.format("csrf"), b"12"), (FILE.format("file"), data)), form_type),
        (form((FIELD.format("image"), url.encode())), form_type), (form((FILE.format("image"), lines.encode())), form_type),
        (b"preamble\r\n" + form((FILE.format("a"), data)) + b"epilogue", 'multipart/form-data; charset=utf-8; boundary="--XyZ"'),
        (form((FILE.format("a").replace("filename=", "filename*=").replace('"a.png"', "UTF-8''%e2.png"), data)), form_type),
    ]  # fmt: skip
    for body, kind in bodies:
        for encode, coding in ((bytes, None), (gzip.compress, "gzip")):
            raw = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = ask(client, encode(raw), kind, **({"Content_Encoding": coding} if coding else {}))
            assert answer.status_code == 200, (raw[:80], kind, coding, answer.text)
            assert answer.json() == expected, (raw[:80], kind)


def test_several_images_have_an_answer_each_in_their_order(client: TestClient, files: list[bytes]) -> None:
    expected = [client.post("/predict", content=data).json() for data in files]
    texts = [base64.b64encode(data).decode() for data in files]
    parts = form(*((FILE.format(f"file{number}"), data) for number, data in enumerate(files)))
    items = [{"b64": text} for text in texts]
    for body in (
        parts,
        texts,
        items,
        {"instances": items},
        {"instances": [{"image": item} for item in items]},
        {"inputs": {"image": texts}},
    ):
        found = ask(client, body).json()
        for one, answer in zip(found["predictions"], expected, strict=True):
            assert one["class"] == answer["class"]
            assert one["confidence"] == pytest.approx(answer["confidence"], abs=1e-5)
    assert len(ask(client, texts[:1]).json()["predictions"]) == 1, "a list stays one"
    assert "at a time" in refusal(ask(client, texts, path="/predict?why=true"), 400)
    assert "9 images" in refusal(ask(client, [texts[0]] * 9), 400)
    assert "9 images" in refusal(ask(client, form(*[(FILE.format("a"), files[0])] * 9)), 400)
    assert refusal(ask(client, [texts[0], base64.b64encode(b"no image" * 50).decode()]), 400).startswith("image 2: ")


def test_compressed_bodies(client: TestClient, files: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planish.serving.http.content_encoding._PIECE", 100)
    data = files[0]
    expected = client.post("/predict", content=data).json()
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    bodies = {"gzip": gzip.compress(data), "x-gzip": gzip.compress(data), "deflate": zlib.compress(data), "identity": data, "": data}
    for coding, body in [*bodies.items(), ("deflate", raw.compress(data) + raw.flush()), ("GZIP, identity", gzip.compress(data))]:
        answer = ask(client, body, Content_Encoding=coding)
        assert (answer.status_code, answer.json()) == (200, expected), coding
    for coding in ("br", "zstd", "compress", "gzip, gzip", "utf-8", "gzip, br"):
        refused = ask(client, data, Content_Encoding=coding)
        assert coding in refusal(refused, 415)
        assert refused.headers["Accept-Encoding"] == "gzip, deflate"
    assert "not gzip" in refusal(ask(client, data, Content_Encoding="gzip"), 400)
    assert "not deflate" in refusal(ask(client, gzip.compress(data), Content_Encoding="deflate"), 400)
    assert "cut off" in refusal(ask(client, gzip.compress(data)[:-9], Content_Encoding="gzip"), 400)
    assert "after the end" in refusal(ask(client, gzip.compress(data) * 2, Content_Encoding="gzip"), 400)
    assert "no body" in refusal(ask(client, gzip.compress(b""), Content_Encoding="gzip"), 400)
    tensor = {"inputs": [{"name": "images", "shape": [1, 24, 24, 1], "datatype": "UINT8", "data": [7] * 576}]}
    path = "/v2/models/shapes/infer"
    assert (
        ask(client, gzip.compress(json.dumps(tensor).encode()), path=path, Content_Encoding="gzip").json()
        == ask(client, tensor, path=path).json()
    )


def test_a_bomb_is_refused_once_it_has_as_many_bytes_as_a_body_may(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    decompressed = 0
    create = zlib.decompressobj

    class Counting:
        def __init__(self, bits: int) -> None:
            self._stream = create(bits)

        def decompress(self, data: bytes, most: int) -> bytes:
            nonlocal decompressed
            found = self._stream.decompress(data, most)
            decompressed += len(found)
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self._stream, name)

    monkeypatch.setattr("planish.serving.http.content_encoding.zlib.decompressobj", Counting)
    for coding, bomb in (("gzip", gzip.compress(bytes(50_000_000))), ("deflate", zlib.compress(bytes(50_000_000)))):
        assert len(bomb) < MOST
        refusal(ask(client, bomb, Content_Encoding=coding), 413)
    assert decompressed <= 2 * (MOST + 65_536)


def test_what_is_no_image_is_refused_by_name(client: TestClient, files: list[bytes]) -> None:
    text = base64.b64encode(files[0]).decode()
    for kind in ("video/mp4", "application/pdf", "image/heic", "image/svg+xml", "multipart/mixed; boundary=a"):
        answer = ask(client, b"\0\1\2 not an image", kind)
        said = refusal(answer, 415)
        assert kind.split(";")[0] in said
        assert "multipart/form-data" in said
        assert "image/png" in answer.headers["Accept"]
    assert "urlencoded" in refusal(ask(client, f"image={text}".encode(), "application/x-www-form-urlencoded"), 415)
    assert "--data-binary" in refusal(ask(client, files[0].replace(b"\r\n", b""), "application/x-www-form-urlencoded"), 400)
    for body, message in {
        b"": "no body", b"no image": "not an image", b"\0\1": "not an image", b"data:image/png,abc": "base64", b"data:;base64,": "empty",
        b"{": "not JSON", b"[]": "no images", b"{}": "nothing", b'{"a": 1}': "number", b'{"image": null}': "null", b'[["a"]]': "list",
        b'{"image": "a", "threshold": 0.5}': "'threshold'", b'{"image": ""}': "empty", b'{"image": "\xff"}': "not JSON",
        b'{"image": "\\ud800"}': "not base64", b'"\\u00007"': "not base64",
        b"data:a;base64,b*": "not base64", b'{"instances": [[[[1, 2], [3, 4]]]]}': "/infer",
        b'{"instances": [' + b"[[0, 1], [2, 3]], " * 5000 + b"[]]}": "/infer", b'{"image": "' + b'a\\"' * 500 + b'"}': "quotation mark",
        b"[" * 60_000: "not JSON", b'{"a":' * 10_000 + b"1" + b"}" * 10_000: "not JSON", b'{"image": "' + b"a" * 5000: "not JSON",
        b'{"image": "' + b"a\\x" * 500 + b'"}': "not base64", b'{"image": "' + b"\\" * 5000 + b'"}': "not base64",
    }.items():  # fmt: skip
        assert message in refusal(ask(client, body, "application/json"), 400), body[:50]


def test_forms_that_are_damaged_or_empty_are_refused(client: TestClient, files: list[bytes]) -> None:
    whole, kind = form((FILE.format("file"), files[0])), "multipart/form-data; boundary=--XyZ"
    for body, message in (
        (whole[:-40], "cut off"), (b"--" + b"--XyZ--\r\n", "form is empty"), (form((FILE.format("file"), b"")), "'a.png' is empty"),
        (form(("Content-Type: image/png", files[0])), "Content-Disposition"), (whole.replace(b"\r\n", b"\n"), "boundary"),
        (b"no form", "boundary"), (form((FIELD.format("threshold"), b"0.5"), (FILE.format("file"), files[0])), "?threshold="),
        (form(*[(FIELD.format("a"), b"b")] * 1200), "parts"), (form((FILE.format("a" * 10_000), files[0])), "too large"),
    ):  # fmt: skip
        assert message in refusal(ask(client, body, kind), 400), body[:80]
    assert "without a boundary" in refusal(ask(client, files[0], "multipart/form-data"), 400)


def test_the_limits_hold_for_what_is_in_a_form_or_in_base64(client: TestClient) -> None:
    large = io.BytesIO()
    Image.new("1", (400, 300)).save(large, "PNG")
    many_pixels = large.getvalue()
    text = base64.b64encode(many_pixels).decode()
    for body in (form((FILE.format("a"), many_pixels)), {"image": text}, f"data:image/png;base64,{text}".encode(), [text, text]):
        assert "pixels" in refusal(ask(client, body), 400)
    for body in (form((FILE.format("a"), bytes(MOST))), {"image": "a" * MOST}, {"instances": [{"b64": "a" * MOST}]}):
        refusal(ask(client, body), 413)


def test_kserve_v1(client: TestClient, files: list[bytes]) -> None:
    expected = client.post("/predict", content=files[0]).json()
    body = {"instances": [{"b64": base64.b64encode(files[0]).decode()}]}
    for path in ("/v1/models/shapes:predict", "/v1/models/shapes/versions/2:predict"):
        found = ask(client, body, path=path).json()
        assert list(found) == ["predictions"]
        assert found["predictions"] == [{name: expected[name] for name in ("class", "confidence", "classes")}]
    assert client.get("/v1/models").json() == {"models": ["shapes"]}
    assert client.get("/v1/models/shapes").json() == {"name": "shapes", "ready": True}
    for path in ("/v1/models/other:predict", "/v1/models/shapes/versions/9:predict"):
        assert "no such model" in refusal(ask(client, body, path=path), 404)
    assert "no such model" in refusal(client.get("/v1/models/other"), 404)
    assert "no images" in refusal(ask(client, {"instances": []}, path="/v1/models/shapes:predict"), 400)


def test_what_was_sent_in_any_form_is_logged_as_image_files(bundle: Path, files: list[bytes], tmp_path: Path) -> None:
    with TestClient(
        service(open_models([f"shapes={bundle}"]), recorder=Recorder(LogSettings(tmp_path, images=10), a_second=1e6))
    ) as client:
        texts = [base64.b64encode(data).decode() for data in files[:2]]
        assert ask(client, {"instances": texts}).status_code == 200
    assert {file.read_bytes() for file in (tmp_path / IMAGES).iterdir()} == set(files[:2])
    with Image.open(io.BytesIO(files[0])) as image:
        assert [record["width"] for record in records(tmp_path)] == [image.width] * 2
