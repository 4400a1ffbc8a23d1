"""Decoded images and the resized ones made from them, cached on disk or, if they do not fit, made when they are needed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from planish.artifact import InputSpec, Preprocessing
from planish.data.cache.files import full_disk_reported, in_threads, key_of, whole
from planish.data.cache.limit import cache_limit, make_room, used
from planish.data.duplicates import THUMB, thumbnail
from planish.data.preprocessing import FORMATS, decode, resize
from planish.data.sources.file_kinds import remarks
from planish.errors import DataError
from planish.files.reading import describe, read_bytes
from planish.progress import Stage, note

if TYPE_CHECKING:
    from planish.artifact import Pixels

_VERSION = 3  # increment when decoding or the layout changes
_FIRST = 512  # images from which the size of all is estimated
_PIXELS = "pixels.bin"


@dataclass(frozen=True)
class ImageStore:
    """Decoded images of different sizes in one memory-mapped buffer, or without a buffer, decoded whenever they are needed.

    Args:
        buffer: uint8, all images concatenated; None if the cache is too small for them.
        paths: the image files.
        hashes: SHA-256 of each file, ``(N, 32)``.
        offsets: start of each image in the buffer, int64 ``(N + 1,)``.
        shapes: height, width, channels, int64 ``(N, 3)``; channels is 1 if the image is grey. All 0 for a broken file.
        means: mean of each channel on the 0..1 scale, float64 ``(N, 3)``.
        squares: mean of the squared values of each channel, float64 ``(N, 3)``.
        thumbs: grey thumbnails, uint8 ``(N, THUMB, THUMB)``.
        bad: why files could not be decoded, by index.
        remarks: notes about unusual files, each with the indices of the files that it applies to.
        decode_side: upper bound of the shorter side.
        grey: whether images were decoded as grey.
        key: cache key.
    """

    buffer: npt.NDArray[np.uint8] | None
    paths: Sequence[Path]
    hashes: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    shapes: npt.NDArray[np.int64]
    means: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    thumbs: npt.NDArray[np.uint8]
    bad: dict[int, str]
    remarks: dict[str, list[int]]
    decode_side: int
    grey: bool
    key: str

    def image(self, row: int) -> npt.NDArray[np.uint8]:
        """One decoded image, uint8 ``(H, W, C)``; a view of the buffer if there is one.

        Raises:
            DataError: there is no buffer, and the file is not what it was when it was listed.
        """
        if self.buffer is None:
            return _decode_again(self.paths[row], self.hashes[row], self.decode_side, self.grey)
        height, width, channels = self.shapes[row]
        return self.buffer[self.offsets[row] : self.offsets[row + 1]].reshape(height, width, channels)

    def decoded_as(self, decode_side: int, grey: bool) -> ImageStore:
        """These images decoded otherwise; only for a store without a buffer."""
        return replace(self, decode_side=decode_side, grey=grey, key=key_of(self.key, decode_side, grey))

    def serves(self, rows: npt.NDArray[np.int64], channels: int, decode_side: int) -> bool:
        """Whether decoding these images again with ``channels`` and ``decode_side`` would give the same pixels."""
        shapes = self.shapes[rows]
        same_colour = channels == 1 if self.grey else channels == 3 or bool((shapes[:, 2] == 1).all())
        longest = int(shapes[:, :2].min(axis=1).max(initial=0))
        same_size = decode_side == self.decode_side or (longest < self.decode_side and longest <= decode_side)
        return same_colour and same_size


def decoded(paths: Sequence[Path], hashes: npt.NDArray[np.uint8], decode_side: int, grey: bool, root: Path) -> ImageStore:
    """Decode all files, or load them from the cache if the same contents were decoded before. Broken files are in ``ImageStore.bad``.

    If the cache is too small for all of them (``cache_limit``), their pixels are not kept.

    Args:
        paths: the image files.
        hashes: SHA-256 of each file, ``(N, 32)``.
        decode_side: see ``Preprocessing``.
        grey: whether to decode as grey.
        root: the cache folder.

    Raises:
        DataError: the disk is full, or a file that was hashed can no longer be read.
    """
    key = key_of(_VERSION, THUMB, decode_side, grey, hashes)
    folder = root / "decoded" / key
    if not folder.is_dir():
        _decode_all(paths, hashes, decode_side, grey, folder, root)
    used(folder)
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        arrays = {name: index[name] for name in index.files}
    total = int(arrays["offsets"][-1])
    buffer: npt.NDArray[np.uint8] | None = None
    if (folder / _PIXELS).exists():
        buffer = np.memmap(folder / _PIXELS, dtype=np.uint8, mode="r", shape=(total,)) if total else np.zeros(0, np.uint8)
    if buffer is None:
        _note_limit(total, root)
    bad = {int(i): reason for i, reason in json.loads((folder / "bad.json").read_text()).items()}
    remarks = json.loads((folder / "remarks.json").read_text())
    return ImageStore(buffer, paths, hashes, **arrays, bad=bad, remarks=remarks, decode_side=decode_side, grey=grey, key=key)


def resized(store: ImageStore, rows: npt.NDArray[np.int64], spec: InputSpec, preprocessing: Preprocessing, root: Path) -> Pixels:
    """The selected images at the model's input size, uint8 ``(N, h, w, C)``, memory-mapped; computed on first use.

    If the cache is too small for them, they are ``ImagesOnDemand``: each is made when it is selected.

    Raises:
        DataError: the disk is full.
    """
    key = key_of(store.key, rows, spec.channels, spec.height, spec.width, preprocessing.resize)
    folder = root / "resized" / key
    shape = (len(rows), spec.height, spec.width, spec.channels)
    made = ImagesOnDemand(store, rows, spec, preprocessing)
    if not folder.is_dir():
        size = float(np.prod(shape, dtype=np.int64))
        if not make_room(root, size, keep=store.key):
            if store.buffer is not None:
                _note_limit_once(size, root)
            return cast("Pixels", made)

        def work(i: int) -> bytes:
            return made.image(i).tobytes()

        with whole(folder) as partial, full_disk_reported(root, lambda: size), (partial / "images.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            with Stage("resizing images", len(rows)) as stage:
                for chunk in in_threads(work, len(rows)):
                    file.write(b"".join(chunk))
                    stage.advance(len(chunk))
    used(folder)
    images: Pixels = np.load(folder / "images.npy", mmap_mode="r")
    return images


class ImagesOnDemand:
    """Images at the model's input size that are made when they are selected: for indices, slices and masks of the first axis they are what
    an array ``(N, h, w, C)`` of them would be.

    Args:
        store: the decoded images.
        rows: which of them, ``(N,)``.
        spec: size and channels of the model's input.
        preprocessing: how images are resized.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, store: ImageStore, rows: npt.NDArray[np.int64], spec: InputSpec, preprocessing: Preprocessing) -> None:
        self._store, self._rows, self._spec, self._preprocessing = store, rows, spec, preprocessing
        self.shape = (len(rows), spec.height, spec.width, spec.channels)

    def __len__(self) -> int:
        return len(self._rows)

    def image(self, index: int) -> npt.NDArray[np.uint8]:
        """One image, uint8 ``(h, w, C)``."""
        image = resize(self._store.image(int(self._rows[index])), self._spec, self._preprocessing)
        return np.repeat(image, 3, axis=2) if image.shape[2] < self._spec.channels else image

    def __getitem__(self, index: Any) -> npt.NDArray[np.uint8]:
        selected = np.arange(len(self))[index]
        if selected.ndim == 0:
            return self.image(int(selected))
        found = np.empty((len(selected), *self.shape[1:]), np.uint8)

        def work(place: int) -> None:
            found[place] = self.image(int(selected[place]))

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL
            list(pool.map(work, range(len(selected))))
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return self[:].astype(dtype or self.dtype, copy=False)


def _note_limit(needed_bytes: float, root: Path) -> None:
    note(
        f"the images would take {needed_bytes / 1e9:,.2f} GB of the cache, whose limit is {cache_limit(root) / 1e9:,.2f} GB: each is"
        " decoded when it is needed, which is slower; --cache-size sets the limit"
    )


_note_limit_once = cache(_note_limit)  # the images of a split are asked for in every stage


def _decode_again(path: Path, sha256: npt.NDArray[np.uint8], decode_side: int, grey: bool) -> npt.NDArray[np.uint8]:
    try:
        data = read_bytes(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{str(path)!r} can no longer be read: {describe(error)}", "", "try again") from error
    if hashlib.sha256(data).digest() != sha256.tobytes():
        raise DataError(f"{str(path)!r} has changed since it was listed", "images stay as they are during a job", "start again")
    return _decode(data, decode_side, grey)


def _decode(data: bytes, decode_side: int, grey: bool) -> npt.NDArray[np.uint8]:
    """A decoded image ``(H, W, C)``; C is 1 if all channels are equal."""
    image = decode(data, 1 if grey else 3, decode_side)
    if not grey and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
        image = np.ascontiguousarray(image[..., :1])
    return image


def _decode_all(paths: Sequence[Path], hashes: npt.NDArray[np.uint8], decode_side: int, grey: bool, folder: Path, root: Path) -> None:
    count = len(paths)
    shapes, thumbs = np.zeros((count, 3), np.int64), np.zeros((count, THUMB, THUMB), np.uint8)
    means, squares = np.zeros((count, 3)), np.zeros((count, 3))
    bad: dict[str, str] = {}
    remarked: dict[int, list[str]] = {}
    written = done = 0
    allowed: float | None = 0.0  # bytes that there is room for; None if the pixels are not kept

    def work(i: int) -> bytes:
        try:
            data = read_bytes(paths[i])
        except (OSError, ValueError) as error:
            if hashes[i].any() and getattr(error, "errno", None) != errno.EFBIG:
                # a fault of the disk or network now, not of the content, by which the result is cached
                raise DataError(f"{str(paths[i])!r} can no longer be read: {describe(error)}", "", "try again") from error
            bad[str(i)] = str(error)
            return b""
        try:
            image = _decode(data, decode_side, grey)
            remarked[i] = remarks(data, FORMATS)
        except (DataError, OSError, ValueError) as error:
            bad[str(i)] = str(error)
            return b""
        values = np.arange(256) / 255
        counts = np.stack([np.bincount(channel, minlength=256) for channel in image.reshape(-1, image.shape[2]).T]) / image[..., 0].size
        shapes[i], means[i], squares[i], thumbs[i] = image.shape, counts @ values, counts @ values**2, thumbnail(image)
        return image.tobytes() if allowed is not None else b""

    with (
        whole(folder) as partial,
        full_disk_reported(root, lambda: written * count / max(1, done)),
        (partial / _PIXELS).open("wb") as file,
        Stage("decoding images", count) as stage,
    ):
        for chunk in in_threads(work, count):
            done += len(chunk)
            if allowed is not None:
                written += file.write(b"".join(chunk))
                if written > allowed and (done >= _FIRST or done == count):
                    allowed = written * count / done
                    if not make_room(root, allowed):
                        allowed = None
                        file.truncate(0)
            stage.advance(len(chunk))
        if allowed is None:
            (partial / _PIXELS).unlink()
        offsets = np.concatenate([[0], np.cumsum(shapes.prod(axis=1))])
        index = io.BytesIO()
        np.savez(index, offsets=offsets, shapes=shapes, means=means, squares=squares, thumbs=thumbs)
        (partial / "index.npz").write_bytes(index.getvalue())
        (partial / "bad.json").write_text(json.dumps({i: bad[i] for i in sorted(bad, key=int)}))
        of_files: dict[str, list[int]] = {}
        for i in sorted(remarked):
            for text in remarked[i]:
                of_files.setdefault(text, []).append(i)
        (partial / "remarks.json").write_text(json.dumps(of_files))
