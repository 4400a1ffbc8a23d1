"""Manifests as other tools write them: paths of another machine, one-hot columns, numbers that pandas changed, repeated rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from planish.data.sources.inventory import Inventory
from planish.data.sources.manifest import list_manifest
from planish.errors import DataError

FILES = ("train/cat/01.png", "train/cat/02.png", "train/dog/03.png", "train/dog/04.JPG")


def manifest(root: Path, rows: list[str], head: str = "path,label", name: str = "list.csv") -> Path:
    for file in FILES:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    (root / name).write_text("\n".join([head, *rows]), encoding="utf-8")
    return root / name


def labels(file: Path) -> dict[str, str]:
    return {item.key: item.label for item in list_manifest(file)}


@pytest.mark.parametrize(
    "written",
    [
        lambda file: f"/home/somebody/data/{file}",
        lambda file: "C:\\data\\" + file.replace("/", "\\"),
        lambda file: f"data/{file}",
        lambda file: Path(file).name,
        lambda file: Path(file).stem,
        lambda file: f"/data/{Path(file).with_suffix('')}",
        str.upper,
    ],
    ids=["absolute", "Windows", "folder above", "base name", "without suffix", "absolute, without suffix", "case"],
)
def test_files_of_a_manifest_of_another_machine_are_found(tmp_path: Path, written: Callable[[str], str]) -> None:
    file = manifest(tmp_path, [f"{written(name)},{name.split('/')[1]}" for name in FILES])
    assert labels(file) == {name: name.split("/")[1] for name in FILES}
    inventory = Inventory()
    list_manifest(file, inventory)
    assert "which is taken from here: train/cat/01.png" in "".join(inventory.assumptions)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["01.png", "9.png"], "names 2 files that do not exist"),
        (["train/cat/01.png", "02.png"], "names 1 files that do not exist: '02.png'"),  # the list is not of another place
        (["cat/03.png", "dog/04.JPG"], "names 2 files that do not exist"),  # 03.png is below dog/
        (["a/01.png", "b/01.png"], "names 2 files that do not exist"),  # one file for two names
        (["same.png"], "several files have that name: a/same.png, b/same.png"),
    ],
)
def test_files_are_not_taken_for_others(tmp_path: Path, names: list[str], message: str) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.png").touch()
    with pytest.raises(DataError, match=message):
        list_manifest(manifest(tmp_path, [f"{name},x" for name in names]))


def test_one_hot_columns_are_labels(tmp_path: Path) -> None:
    rows = [f"{i},{name},{int('cat' in name)}.0, {int('dog' in name)}" for i, name in enumerate(FILES)]
    assert labels(manifest(tmp_path, rows, head=",Image Path,cat, dog")) == {name: name.split("/")[1] for name in FILES}


@pytest.mark.parametrize(("cells", "message"), [("1,1", "line 2 has 2 classes: cat, dog"), ("0,0", "line 2 has 0 classes")])
def test_several_classes_at_once_are_refused(tmp_path: Path, cells: str, message: str) -> None:
    rows = [f"{name},{cells if name == FILES[0] else '1,0'}" for name in FILES]
    with pytest.raises(DataError, match=message):
        list_manifest(manifest(tmp_path, rows, head="filename,cat,dog"))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["0", "0.0", "1.0", "1"], ["0", "0", "1", "1"]),
        (["0.5", "0.0", "1.0", "1"], ["0.5", "0.0", "1.0", "1"]),
        (["caf\u00e9", "cafe\u0301", "01", "1.0"], ["caf\u00e9", "caf\u00e9", "01", "1.0"]),
    ],
    ids=["whole numbers", "other numbers", "Unicode forms"],
)
def test_spellings_of_one_label(tmp_path: Path, written: list[str], expected: list[str]) -> None:
    file = manifest(tmp_path, [f"{name},{label}" for name, label in zip(FILES, written, strict=True)])
    assert labels(file) == dict(zip(FILES, expected, strict=True))


def test_combined_labels_are_noted(tmp_path: Path) -> None:
    inventory = Inventory()
    list_manifest(manifest(tmp_path, [f"{name},{'cat|dog' if '01' in name else 'dog'}" for name in FILES]), inventory)
    assert "each combination of labels in list.csv is a class of its own: 'cat|dog'" in "".join(inventory.assumptions)


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        ("path,label", [f"{FILES[0]},cat", f"{FILES[1]},NaN"], "line 3 has the label NaN, a missing value"),
        ("path,label,label", [f"{FILES[0]},cat,dog"], "several columns 'label'"),
        (f"{FILES[0]},cat", [f"{FILES[1]},cat"], "add a first line with their names"),
        ("path,label", [f"{FILES[0]},cat", f"train/../{FILES[0]},dog"], "line 3: .* as 'cat' .* and as 'dog'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, head: str, rows: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        list_manifest(manifest(tmp_path, rows, head))


def test_an_absolute_path_is_the_file_of_a_relative_one(tmp_path: Path) -> None:
    rows = [f"{FILES[0]},cat", f"{tmp_path / FILES[0]},cat"]
    assert labels(manifest(tmp_path, rows)) == {FILES[0]: "cat"}
    with pytest.raises(DataError, match="one label and one split"):
        list_manifest(manifest(tmp_path, [rows[0], rows[1].replace(",cat", ",dog")]))


def test_tab_separated_values_and_rows_without_cells(tmp_path: Path) -> None:
    rows = [f"{name}\t{name.split('/')[1]}" for name in FILES]
    assert labels(manifest(tmp_path, [*rows, "\t", ""], "path\tlabel", "list.tsv")) == {name: name.split("/")[1] for name in FILES}


def test_the_label_among_other_columns_of_labels(tmp_path: Path) -> None:
    inventory = Inventory()
    list_manifest(manifest(tmp_path, [f"{name},0,cat" for name in FILES], "path,label,class_name"), inventory)
    assert "the column 'label' of list.csv is the label, not 'class_name'" in inventory.assumptions
