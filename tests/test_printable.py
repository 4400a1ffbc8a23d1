"""File names and labels of any bytes: shown and stored as UTF-8, all different, and the right files opened."""

from __future__ import annotations

import io
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from planish.cli.running import fail, stderr, stdout
from planish.cli.tables import data_lines, data_table
from planish.data.images import load_images
from planish.data.sources.inventory import Inventory
from planish.errors import DataError
from planish.files.atomic import write_result
from planish.printable import printable, printable_names
from planish.progress import collecting_notes, note

AWKWARD = "[red]", "[/]", ":cat:", 'a "b" <c> & d', "é, ü", "😀"


def noise(file: bytes | Path, seed: int) -> None:
    Path(os.fsdecode(file)).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    with open(file, "wb") as opened:
        Image.fromarray(pixels).save(opened, "PNG")


def class_folders(root: Path, *names: bytes, images: int = 6) -> Path:
    for k, name in enumerate(names):
        for i in range(images):
            noise(os.fsencode(root) + b"/" + name + b"/caf\xe9 %d.png" % i, 100 * k + i)
    return root


@given(st.lists(st.text(st.characters(categories=["L", "Cc", "Cs", "P"]), max_size=4), max_size=8))
def test_names_become_utf8_on_one_line_and_stay_different(names: list[str]) -> None:
    changed = printable_names(names)
    shown = [changed.get(name, name) for name in dict.fromkeys(names)]
    assert len(set(shown)) == len(shown)
    for name, text in zip(dict.fromkeys(names), shown, strict=True):
        assert (text.encode() and len(text.splitlines()) == 1) or text == ""
        assert (name in changed) == (name != text)


def test_bytes_are_shown_as_percent() -> None:
    assert printable_names([os.fsdecode(b"caf\xe9"), "caf%E9", "ok"]) == {os.fsdecode(b"caf\xe9"): "caf%25E9"}
    assert printable("a\x1b[31mb\nc\ud83d") == "a%1B[31mb\nc%ED%A0%BD"


def test_files_and_classes_that_are_not_utf8(tmp_path: Path) -> None:
    folder = class_folders(tmp_path / os.fsdecode(b"d\xe4ta"), b"d\xf6g", b"d%F6g", b"[red]")
    with collecting_notes() as notes:
        data = load_images(folder, cache_dir=tmp_path / "cache")
    assert data.name == "d%E4ta"
    assert data.class_names == ("[red]", "d%25F6g", "d%F6g")
    assert any("19 names" in text or "18 names" in text for text in notes)
    assert any("1 names" in text for text in notes)
    for split in data.splits.values():
        for key, path, target in zip(split.keys, split.paths, split.targets, strict=True):
            assert key.encode().startswith(data.class_names[target].encode())
            assert os.fsencode(path.name).startswith(b"caf\xe9 ")
            assert path.is_file()
    json.loads(data.report.model_dump_json())


def test_a_manifest_names_files_by_their_bytes(tmp_path: Path) -> None:
    class_folders(tmp_path, b"a", b"b")
    rows = [b"%s/caf\xe9 %d.png,%s" % (name, i, name) for name in (b"a", b"b") for i in range(6)]
    (tmp_path / "m.csv").write_bytes(b"path,label\n" + b"\n".join(rows) + b"\n")
    assert load_images(tmp_path / "m.csv").report.images == 12
    (tmp_path / "m.csv").write_bytes(b"path,label\n" + b"\n".join(rows).replace(b",a", b",\xe4"))
    with pytest.raises(DataError, match="line 2 has a label that is not UTF-8: %E4"):
        load_images(tmp_path / "m.csv")
    (tmp_path / "m.csv").write_bytes("path,label\na,b\n".encode("utf-16"))
    with pytest.raises(DataError, match="zero bytes"):
        load_images(tmp_path / "m.csv")


def test_broken_files_are_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "d", b"a", b"b")
    broken = os.fsencode(tmp_path / "d") + b"/a/z\xe9.png"
    with open(broken, "wb"):
        pass
    with pytest.raises(DataError) as error:
        load_images(tmp_path / "d")
    assert "a/z%E9.png: an image that cannot be decoded: an empty file" in str(error.value)


def test_errors_and_notes_can_be_stored() -> None:
    bad = os.fsdecode(b"caf\xe9")
    assert str(DataError(f"{bad} is bad", "a rule")) == "caf%E9 is bad. a rule."
    with collecting_notes() as notes:
        note(f"{bad} is noted")
    assert notes == ["caf%E9 is noted"]


@pytest.mark.parametrize("label", AWKWARD)
def test_labels_are_printed_as_they_are(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "how": label, "exact_duplicates": 0, "near_duplicates": 0, "bad": [], "leaks": [], "label_conflicts": [[label, label]],
        "name": label, "images": 3, "counts": {"train": {label: 3}}, "task": "classification", "objects": None,
        "split_sizes": {"train": 3}, "inventory": Inventory().model_dump(),
    }  # fmt: skip
    out = io.StringIO()
    monkeypatch.setattr(stdout, "_file", out)
    stdout.print(data_table(found))
    for line in data_lines(found):
        stdout.print(line, markup=False, soft_wrap=True)
    assert out.getvalue().count(label) == 5
    monkeypatch.setattr(stderr, "_file", out := io.StringIO())
    with pytest.raises(SystemExit):
        fail(f"{label} is bad")
    assert out.getvalue() == f"error: {label} is bad\n"


def test_no_console_reads_markup_or_emoji() -> None:
    from planish.report.terminal import TerminalProgress

    for console in (stdout, stderr, TerminalProgress().console):
        assert isinstance(console, Console)
        assert console.render_str("[red]:cat:[/red]").plain == "[red]:cat:[/red]"


def test_results_hold_paths_that_are_not_utf8(tmp_path: Path) -> None:
    from planish.datacentric.few_shot import FewShot

    found = FewShot(os.fsdecode(b"d\xe4ta"), "m", "", 1, 0.5, [], [])
    write_result(tmp_path / "r.json", found)
    assert json.loads((tmp_path / "r.json").read_bytes())["data"] == "d%E4ta"


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_accents_are_found_however_they_are_stored(tmp_path: Path, stored: str) -> None:
    names = {form: [unicodedata.normalize(form, f"caf\u00e9 {i}.png") for i in range(12)] for form in ("NFC", "NFD")}
    written = names["NFD" if stored == "NFC" else "NFC"]
    for i, name in enumerate(names[stored]):
        noise(tmp_path / name, i)
    (tmp_path / "m.csv").write_text("path,label\n" + "".join(f"{name},{'ab'[i % 2]}\n" for i, name in enumerate(written)), encoding="utf-8")
    assert load_images(tmp_path / "m.csv").report.images == 12
    (tmp_path / "m.csv").unlink()
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(written)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 4, 4]} for i in range(12)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert load_images(tmp_path).report.images == 12
