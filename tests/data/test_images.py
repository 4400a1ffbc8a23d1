import io
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from planish.artifact import InputSpec, Preprocessing
from planish.data.cache import files as cache
from planish.data.cache import images as store
from planish.data.images import Decoding, ImageData, load_images
from planish.data.preprocessing import decode, preprocess
from planish.data.sources import builtin
from planish.errors import DataError
from planish.progress import listening

PREPROCESSING = Preprocessing(256, "squash", (0.5,), (0.5,))


def picture(seed: int, height: int = 12, width: int = 10, grey: bool = False) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width) if grey else (height, width, 3), dtype=np.uint8))


def make(root: Path, counts: dict[str, int], first: int = 0, **options: bool) -> Path:
    """Folders with so many different images each: {"train/cat": 3}."""
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            first += 1
            picture(first, **options).save(root / folder / f"{i:03d}.png")
    return root


def split_by_key(data: ImageData) -> dict[str, str]:
    return {key: name for name, split in data.splits.items() if name != "calibration" for key in split.keys}


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def load(cache_dir: Path):
    def call(source: str | Path, **options: object) -> ImageData:
        return load_images(source, cache_dir=cache_dir, **options)  # type: ignore[arg-type]

    return call


# ---- what comes out


def test_class_folders_are_split_stratified_and_whole(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"cat": 20, "dog": 40, "eel": 3})
    data = load(root, seed=3)
    assert data.class_names == ("cat", "dog", "eel")
    counts = data.report.counts
    for part in ("validation", "test"):  # 15 % of each, give or take half of that; of three images one
        assert 2 <= counts[part]["cat"] <= 4
        assert 3 <= counts[part]["dog"] <= 9
        assert counts[part]["eel"] == 1
    keys = [set(data.splits[name].keys) for name in ("train", "validation", "test")]
    assert sum(map(len, keys)) == 63
    assert len(set.union(*keys)) == 63
    assert set(data.splits["calibration"].keys) <= keys[0]
    for part in data.splits.values():
        assert part.targets.dtype == np.int64
        assert [data.class_names[t] for t in part.targets] == [k.split("/")[0] for k in part.keys]
    assert split_by_key(data) == split_by_key(load(root, seed=3))
    assert split_by_key(data) != split_by_key(load(root, seed=4))
    assert json.loads(data.report.model_dump_json())["seed"] == 3
    assert len(split_by_key(data)) == len(data.assignment.splits) == 63


def test_pixels_are_what_prepare_makes_of_the_files(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"a": 4, "b": 4})
    make(root, {"a/more": 3}, first=50, grey=True)
    picture(90, 300, 400).save(root / "b" / "big.jpg")
    data = load(root, decoding=Decoding(64))
    for spec in (InputSpec(3, 16, 20), InputSpec(1, 8, 8)):
        for side in (64, 32, 400):
            for how in ("squash", "crop"):
                preprocessing = Preprocessing(side, how, (0.5,), (0.5,))
                for split in data.splits.values():
                    images = split.images(spec, preprocessing)
                    assert isinstance(images, np.memmap)
                    assert not images.flags.writeable
                    expected = np.stack([preprocess(split.file_bytes(i), spec, preprocessing) for i in range(len(split))])
                    assert (images == expected).all()


def test_statistics_agree_with_numpy(tmp_path, load) -> None:
    data = load(make(tmp_path / "d", {"a": 5, "b": 5}))
    train = data.splits["train"]
    pixels = np.stack([decode(train.file_bytes(i), 3, 256) for i in range(len(train))]) / 255
    assert np.allclose(data.mean, pixels.mean((0, 1, 2)))
    assert np.allclose(data.std, pixels.std((0, 1, 2)))
    assert (data.channels, data.typical_height, data.typical_width) == (3, 12, 10)


def test_grey_and_constant_images(tmp_path, load) -> None:
    root = tmp_path / "d"
    for c in "ab":
        (root / c).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9 + i, 8), (7, 7, 7)).save(root / c / f"{i}.png")
    with pytest.raises(DataError, match="near duplicates of each other"):
        load(root)
    for split in ("train", "val", "test"):
        for c, level in (("a", 7), ("b", 7)):
            (tmp_path / "e" / split / c).mkdir(parents=True)
            Image.new("RGB", (9, 8), (level,) * 3).save(tmp_path / "e" / split / c / "x.png")
    data = load(tmp_path / "e")
    assert data.channels == 1
    assert data.mean == pytest.approx((7 / 255,))
    assert data.std[0] > 0
    assert data.report.label_conflicts
    assert load(tmp_path / "e", decoding=Decoding(channels=3)).channels == 3
    assert load(make(tmp_path / "f", {"a": 4, "b": 4}), decoding=Decoding(channels=1)).channels == 1


def test_given_splits_are_kept_and_the_rest_is_cut_from_train(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"train/a": 10, "train/b": 10, "test/a": 2, "test/b": 2})
    data = load(root)
    assert {k for k, s in split_by_key(data).items() if s == "test"} == {k for k in split_by_key(data) if k.startswith("test/")}
    assert set(data.report.counts["validation"].values()) <= {1, 2}
    assert "cut from train" in data.report.how
    make(root, {"Val/a": 1, "Val/b": 1}, first=100)
    assert load(root).report.counts["validation"] == {"a": 1, "b": 1}
    assert load(root).report.how == "as given"


def test_near_duplicates_stay_together_and_leaks_are_told(tmp_path, load) -> None:
    root = tmp_path / "d"
    smooth = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64), 3) for i in range(40)]
    for i, image in enumerate(smooth):
        folder = root / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.png")
        image.save(folder / f"{i}-again.jpg", quality=70)
        image.resize((50, 50)).save(folder / f"{i}-small.png")
    for seed in range(3):
        data = load(root, seed=seed)
        sides: dict[str, set[str]] = {}
        for key, side in split_by_key(data).items():
            sides.setdefault(Path(key).stem.split("-")[0], set()).add(side)
        assert all(len(s) == 1 for s in sides.values())
        assert {s for side in sides.values() for s in side} == {"train", "validation", "test"}
        assert data.report.near_duplicates == 80
        assert data.report.exact_duplicates == 0
        assert not data.report.leaks
    leaky = make(tmp_path / "e", {"train/a": 8, "train/b": 8, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2})
    (leaky / "test/a/copy.png").write_bytes((leaky / "train/a/003.png").read_bytes())
    smooth[0].save(leaky / "train/b/s.png")
    smooth[0].save(leaky / "test/b/s.jpg")
    told: list[str] = []
    with listening(lambda p: told.append(p.text)):
        report = load(leaky).report
    (leak,) = report.leaks
    assert (leak.first, leak.second, leak.exact, leak.images) == ("train", "test", 1, 2)
    assert ("train/a/003.png", "test/a/copy.png") in leak.examples
    assert any("also in train" in text for text in told)


def test_calibration_is_bounded_and_has_every_class(tmp_path, load, monkeypatch) -> None:
    monkeypatch.setattr("planish.data.splits.calibration.__defaults__", (20,))
    data = load(make(tmp_path / "d", {"a": 90, "b": 6}))
    calibration = data.splits["calibration"]
    in_train = np.bincount(data.splits["train"].targets)
    assert np.bincount(calibration.targets).tolist() == [int(in_train[0] * 20 / in_train.sum()), 1]
    assert set(calibration.keys) <= set(data.splits["train"].keys)


# ---- manifests


def write_manifest(root: Path, rows: list[dict[str, str]], kind: str) -> Path:
    path = root / f"list.{kind}"
    if kind == "csv":
        path.write_text("\n".join([",".join(rows[0]), *(",".join(r.values()) for r in rows)]))
    else:
        path.write_text("\n".join(json.dumps(r) for r in rows))
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_manifest(tmp_path, load, kind: str) -> None:
    make(tmp_path, {"x": 8})
    rows = [{"path": f"x/{i:03d}.png", "label": "ab"[i % 2], "split": ["train", "train", "valid", "test"][i // 2]} for i in range(8)]
    rows[7]["path"] = str(tmp_path / "x/007.png")
    data = load(write_manifest(tmp_path, rows, kind))
    assert data.report.counts["train"] == {"a": 2, "b": 2}
    assert split_by_key(data)["x/005.png"] == "validation"
    assert split_by_key(data)[str(tmp_path / "x/007.png")] == "test"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [r.pop("label") for r in rows], "lacks label"),
        (lambda rows: rows[2].update(label=""), "line 4 has an empty label"),
        (lambda rows: rows[2].update(path="x/no.png"), "1 files that do not exist: 'x/no.png'"),
        (lambda rows: rows[2].update(split="dev"), "split 'dev'"),
        (lambda rows: rows[2].update(split=""), "split for 7 of 8"),
        (lambda rows: rows.append(rows[0] | {"label": "b"}), "as 'a'"),
        (lambda rows: rows.append(rows[0] | {"split": "test"}), "one label and one split"),
        (lambda rows: [r.update(split="test") for r in rows], "only test"),
        (lambda rows: [r.update(label="a") for r in rows], "only one class"),
        (lambda rows: [r.update(label="a") for r in rows if r["split"] == "test"], "no image of 'b' in test"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, load, change, message: str) -> None:
    make(tmp_path, {"x": 8})
    rows = [{"path": f"x/{i:03d}.png", "label": "ab"[i % 2], "split": ["train", "train", "val", "test"][i // 2]} for i in range(8)]
    change(rows)
    with pytest.raises(DataError, match=message):
        load(write_manifest(tmp_path, rows, "csv"))


def test_manifests_that_are_none(tmp_path, load) -> None:
    for name, content, message in (
        ("a.csv", b"path,label\n", "names no images"),
        ("b.csv", b"\xff\xfe\x00", "cannot be read"),
        ("c.jsonl", b"{oops", "line 1 is not JSON"),
        ("d.jsonl", b"[1]", "not a JSON object"),
        ("e.jsonl", b'{"path": "a.png", "labels": ["cat", "dog"]}', "for the label"),
        ("e.rar", b"Rar!", "ending in '.rar'"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            load(tmp_path / name)


# ---- folders that cannot be used


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"a": 4}, "only one class, 'a'"),
        ({"a": 4, "b": 0}, "without images in .*: b"),
        ({"a": 4, "b": 2}, r"too few images .*'b' \(2\)"),
        ({"a": 0, "b": 0}, "has no images"),
        ({"train/a": 4, "train/b": 4, "test/a": 4}, "no image of 'b' in test"),
        ({"test/a": 4, "test/b": 4}, "only test"),
        ({"train/a": 4, "train/b": 1}, r"'b' \(1\)"),
        ({"train/a": 4, "train/b": 4, "cat": 2}, "next to cat/"),
        ({"val/a": 4, "validation/a": 4}, "each split may be there once"),
        ({".": 3}, "3 images without labels.*--max-change"),
        ({".": 0}, "no images"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path, load, counts: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(make(tmp_path / "d", counts))


def test_no_such_folder(load) -> None:
    with pytest.raises(DataError, match=r"does not exist.*fashion-mini"):
        load("no/such/folder")


def test_hidden_files_and_circles_of_links_are_passed_over(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"a": 3, "b": 3, "__MACOSX/a": 2, ".git": 1, "a/.hidden": 1})
    (root / "a/.DS_Store").write_bytes(b"x")
    (root / "a/._000.png").write_bytes(b"x")
    (root / "a/notes.txt").write_text("x")
    (root / "a/loop").symlink_to(root / "a")
    assert len(split_by_key(load(root))) == 6


def test_broken_files_are_all_named_or_left_out(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"a": 5, "b": 5})
    (root / "a/empty.png").write_bytes(b"")
    (root / "a/text.jpg").write_bytes(b"hello")
    file = io.BytesIO()
    picture(3, 64, 64).save(file, "PNG")
    (root / "b/half.png").write_bytes(file.getvalue()[:3000])
    (root / "b/gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="4 of 14 files are broken") as caught:
        load(root)
    for name in ("a/empty.png", "a/text.jpg", "b/half.png", "b/gone.png"):
        assert name in str(caught.value)
    assert "skip" in caught.value.fix
    data = load(root, skip_bad=True)
    assert len(split_by_key(data)) == 10
    assert [b.key for b in data.report.bad] == ["a/empty.png", "a/text.jpg", "b/gone.png", "b/half.png"]
    images = data.splits["train"].images(InputSpec(3, 12, 10), PREPROCESSING)
    assert (images[0] == decode(data.splits["train"].file_bytes(0), 3, 256)).all()


def test_many_broken_files_are_counted(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"a": 3, "b": 3})
    for i in range(15):
        (root / f"a/x{i}.png").write_bytes(b"x")
    with pytest.raises(DataError, match=r"15 of 21 .*and 5 more"):
        load(root)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path, load) -> None:
    root = make(tmp_path / "d", {"a": 3, "b": 4})
    (root / "b/000.png").chmod(0)
    with pytest.raises(DataError, match=r"b/000[.]png: cannot be read"):
        load(root)
    (root / "a").chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        load(root)
    (root / "a").chmod(0o755)


# ---- the cache


def test_the_second_load_decodes_and_reads_nothing(tmp_path, load, monkeypatch) -> None:
    root = make(tmp_path / "d", {"a": 5, "b": 5})
    spec = InputSpec(3, 6, 6)
    first = load(root)
    images = first.splits["train"].images(spec, PREPROCESSING)

    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(store, "decode", never)
    monkeypatch.setattr(store, "resize", never)
    monkeypatch.setattr("planish.data.images.near_duplicate_groups", never)
    with monkeypatch.context() as inner:
        inner.setattr(Path, "read_bytes", never)
        second = load(root)
        assert (second.splits["train"].images(spec, PREPROCESSING) == images).all()
    assert second.mean == first.mean
    # The same contents elsewhere are found as well; a changed file is not taken for the old one.
    root.rename(tmp_path / "moved")
    load(tmp_path / "moved")
    picture(99).save(tmp_path / "moved/a/000.png")
    with pytest.raises(AssertionError, match="made again"):
        load(tmp_path / "moved")


def test_only_changed_files_are_hashed_again(tmp_path, monkeypatch) -> None:
    root = make(tmp_path / "d", {"a": 3, "b": 3})
    paths = [*sorted(root.rglob("*.png")), tmp_path / "missing.png"]
    first, bad = cache.content_hashes(paths, tmp_path)
    assert [*bad] == [6]
    picture(99).save(paths[4])
    picture(98).save(root / "a/new.png")
    read: list[str] = []
    real = cache.hashlib.file_digest
    monkeypatch.setattr(cache.hashlib, "file_digest", lambda file, name: read.append(file.name) or real(file, name))
    second, _ = cache.content_hashes([root / "a/new.png", *paths], tmp_path)
    assert sorted(read) == [str(root / "a/new.png"), str(paths[4])]
    assert (first != second[1:]).any(axis=1).tolist() == [False] * 4 + [True] + [False] * 2
    (tmp_path / "hashes.sqlite").write_bytes(b"damaged " * 99)
    assert (cache.content_hashes(paths, tmp_path)[0] == second[1:]).all(), "a damaged cache costs time only"


def test_killed_in_the_middle_leaves_nothing_half_written(tmp_path, cache_dir) -> None:
    root = make(tmp_path / "d", {"a": 100, "b": 100})
    program = """
        import os, sys
        from pathlib import Path
        from planish.data.images import load_images
        from planish.progress import listening
        def kill(progress):
            if progress.stage == "decoding images" and progress.done >= 64:
                os.kill(os.getpid(), 9)
        with listening(kill):
            load_images(sys.argv[1], cache_dir=Path(sys.argv[2]))
    """
    died = subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(root), str(cache_dir)], check=False)
    assert died.returncode == -9
    names = [p.name for p in (cache_dir / "decoded").iterdir()]
    assert all(n.startswith("partial-") for n in names)
    assert names
    for path in (cache_dir / "decoded").rglob("*"):
        os.utime(path, (0, 0))
    os.utime(cache_dir / "decoded" / names[0], (0, 0))
    data = load_images(root, cache_dir=cache_dir)
    assert len(split_by_key(data)) == 200
    assert not [p for p in (cache_dir / "decoded").iterdir() if p.name.startswith("partial-")]


def test_a_disk_that_fails_for_a_moment_leaves_no_broken_image_in_the_cache(tmp_path, load, monkeypatch) -> None:
    root = make(tmp_path / "d", {"a": 5, "b": 5})

    def failing(path: Path) -> bytes:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(store, "read_bytes", failing)
        with pytest.raises(DataError, match="no longer be read: Input/output error"):
            load(root, skip_bad=True)
    assert load(root).report.images == 10


def test_a_full_disk_is_told(tmp_path, load, monkeypatch) -> None:
    root = make(tmp_path / "d", {"a": 5, "b": 5})
    real = Path.open

    def full(self: Path, *args: object, **kwargs: object) -> object:
        file = real(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.name in names:
            monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 5e6}))
            raise OSError(28, "No space left on device")
        return file

    names = ["pixels.bin"]
    monkeypatch.setenv("PLANISH_CACHE_SIZE", "1GB")
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DataError, match=r"full \(5 MB free\).*MB are needed.*PLANISH_CACHE"):
        load(root)
    names = ["images.npy"]
    data = load(root)
    with pytest.raises(DataError, match="about 18 MB are needed"):
        data.splits["train"].images(InputSpec(3, 1000, 1000), PREPROCESSING)
    assert not list((tmp_path / "cache/resized").iterdir())


def test_a_cache_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="PLANISH_CACHE"):
        load_images(make(tmp_path / "d", {"a": 3, "b": 3}), cache_dir=tmp_path / "file" / "cache")


# ---- built-in data


def test_fashion_mini(load, tmp_path) -> None:
    data = load("fashion-mini")
    assert len(data.class_names) == 10
    assert (data.channels, data.typical_height, data.typical_width) == (1, 28, 28)
    assert set(data.report.counts["test"].values()) == {200}
    assert {data.report.counts["train"][c] + data.report.counts["validation"][c] for c in data.class_names} == {1000}
    test = data.splits["test"]
    assert test.keys[0].startswith("test/ankle-boot/")
    assert test.file_bytes(0)[:8] == b"\x89PNG\r\n\x1a\n"
    assert np.array_equal(
        np.asarray(Image.open(io.BytesIO(test.file_bytes(0)))), test.images(InputSpec(1, 28, 28), PREPROCESSING)[0, ..., 0]
    )
    folder = Path(builtin.__file__).parents[1] / "fashion_mini"
    assert sum(f.stat().st_size for f in folder.iterdir()) < 6_000_000
    assert "Zalando SE" in (folder / "LICENSE").read_text()


def test_the_others_are_looked_for_in_planish_data(tmp_path, load, monkeypatch) -> None:
    make(tmp_path / "mnist", {f"{split}/{c}": 3 for split in ("train", "test") for c in "01"})
    monkeypatch.setenv("PLANISH_DATA", str(tmp_path))
    assert load("mnist").class_names == ("0", "1")


def test_the_others_are_downloaded_and_laid_out(tmp_path, load, monkeypatch) -> None:
    class Fake:
        classes = ("T-shirt/top", "Ankle boot")

        def __init__(self, root: Path, train: bool, download: bool) -> None:
            Path(root).mkdir(exist_ok=True)
            count = 10 if train else 2
            self.data = np.random.default_rng(train).integers(0, 256, (count, 28, 28), dtype=np.uint8)
            self.targets = [i % 2 for i in range(count)]

        def __len__(self) -> int:
            return len(self.targets)

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    (tmp_path / "data").mkdir()
    monkeypatch.setenv("PLANISH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", offline)
    with pytest.raises(DataError, match=r"no network.*PLANISH_DATA"):
        load("fashion-mnist")
    monkeypatch.setattr("torchvision.datasets.FashionMNIST", Fake)
    data = load("fashion-mnist")
    assert data.class_names == ("ankle-boot", "t-shirt")
    assert data.report.counts["test"] == {"ankle-boot": 1, "t-shirt": 1}
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["fashion-mnist"]
