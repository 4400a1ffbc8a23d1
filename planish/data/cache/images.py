"""Cached decoded images, and the resized images made from them."""

from __future__ import annotations

import errno
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planish.artifact import InputSpec, Preprocessing
from planish.data.cache.files import full_disk_reported, in_threads, key_of, whole
from planish.data.duplicates import THUMB, thumbnail
from planish.data.preprocessing import FORMATS, decode, resize
from planish.data.sources.file_kinds import remarks
from planish.errors import DataError
from planish.files.reading import describe, read_bytes
from planish.progress import Stage

if TYPE_CHECKING:
    from planish.artifact import Pixels

_VERSION = 2  # increment when decoding or the layout changes


@dataclass(frozen=True)
class ImageStore:
    """Decoded images of different sizes in one memory-mapped buffer.

    Args:
        buffer: uint8, all images concatenated.
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

    buffer: npt.NDArray[np.uint8]
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
        """One decoded image, uint8 ``(H, W, C)``, a view of the buffer."""
        height, width, channels = self.shapes[row]
        return self.buffer[self.offsets[row] : self.offsets[row + 1]].reshape(height, width, channels)

    def serves(self, rows: npt.NDArray[np.int64], channels: int, decode_side: int) -> bool:
        """Whether decoding these images again with ``channels`` and ``decode_side`` would give the same pixels."""
        shapes = self.shapes[rows]
        same_colour = channels == 1 if self.grey else channels == 3 or bool((shapes[:, 2] == 1).all())
        longest = int(shapes[:, :2].min(axis=1).max(initial=0))
        same_size = decode_side == self.decode_side or (longest < self.decode_side and longest <= decode_side)
        return same_colour and same_size


def decoded(paths: Sequence[Path], hashes: npt.NDArray[np.uint8], decode_side: int, grey: bool, root: Path) -> ImageStore:
    """Decode all files, or load them from the cache if the same contents were decoded before. Broken files are in ``ImageStore.bad``.

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
        _decode_all(paths, hashes, decode_side, grey, folder)
    with np.load(folder / "index.npz", allow_pickle=False) as index:
        arrays = {name: index[name] for name in index.files}
    total = int(arrays["offsets"][-1])
    buffer: npt.NDArray[np.uint8] = (
        np.memmap(folder / "pixels.bin", dtype=np.uint8, mode="r", shape=(total,)) if total else np.zeros(0, np.uint8)
    )
    bad = {int(i): reason for i, reason in json.loads((folder / "bad.json").read_text()).items()}
    remarks = json.loads((folder / "remarks.json").read_text())
    return ImageStore(buffer, **arrays, bad=bad, remarks=remarks, decode_side=decode_side, grey=grey, key=key)


def resized(store: ImageStore, rows: npt.NDArray[np.int64], spec: InputSpec, preprocessing: Preprocessing, root: Path) -> Pixels:
    """The selected images at the model's input size, uint8 ``(N, h, w, C)``, memory-mapped; computed on first use.

    Raises:
        DataError: the disk is full.
    """
    key = key_of(store.key, rows, spec.channels, spec.height, spec.width, preprocessing.resize)
    folder = root / "resized" / key
    shape = (len(rows), spec.height, spec.width, spec.channels)
    if not folder.is_dir():

        def work(i: int) -> bytes:
            image = resize(store.image(rows[i]), spec, preprocessing)
            return (np.repeat(image, 3, axis=2) if image.shape[2] < spec.channels else image).tobytes()

        size = float(np.prod(shape, dtype=np.int64))
        with whole(folder) as partial, full_disk_reported(root, lambda: size), (partial / "images.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            with Stage("resizing images", len(rows)) as stage:
                for chunk in in_threads(work, len(rows)):
                    file.write(b"".join(chunk))
                    stage.advance(len(chunk))
    images: Pixels = np.load(folder / "images.npy", mmap_mode="r")
    return images


def _decode_all(paths: Sequence[Path], hashes: npt.NDArray[np.uint8], decode_side: int, grey: bool, folder: Path) -> None:
    offsets, means, squares, thumbs = [0], [], [], []
    shapes: list[tuple[int, ...]] = []
    bad: dict[str, str] = {}
    remarked: dict[int, list[str]] = {}

    def work(i: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.uint8]] | str:
        try:
            data = read_bytes(paths[i])
        except (OSError, ValueError) as error:
            if hashes[i].any() and getattr(error, "errno", None) != errno.EFBIG:
                # a fault of the disk or network now, not of the content, by which the result is cached
                raise DataError(f"{str(paths[i])!r} can no longer be read: {describe(error)}", "", "try again") from error
            return str(error)
        try:
            image = decode(data, 1 if grey else 3, decode_side)
            remarked[i] = remarks(data, FORMATS)
        except (DataError, OSError, ValueError) as error:
            return str(error)
        if not grey and (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all():
            image = np.ascontiguousarray(image[..., :1])
        values = np.arange(256) / 255
        counts = np.stack([np.bincount(channel, minlength=256) for channel in image.reshape(-1, image.shape[2]).T]) / image[..., 0].size
        return image, np.broadcast_to(counts @ values, 3), np.broadcast_to(counts @ values**2, 3), thumbnail(image)

    nothing = (np.zeros((0, 0, 0), np.uint8), np.zeros(3), np.zeros(3), np.zeros((THUMB, THUMB), np.uint8))
    with (
        whole(folder) as partial,
        full_disk_reported(folder.parent.parent, lambda: offsets[-1] * len(paths) / max(1, len(shapes))),
        (partial / "pixels.bin").open("wb") as file,
        Stage("decoding images", len(paths)) as stage,
    ):
        for chunk in in_threads(work, len(paths)):
            for result in chunk:
                if isinstance(result, str):
                    bad[str(len(shapes))] = result
                image, mean, square, thumb = nothing if isinstance(result, str) else result
                file.write(image.tobytes())
                offsets.append(offsets[-1] + image.size)
                shapes.append(image.shape)
                means.append(mean)
                squares.append(square)
                thumbs.append(thumb)
            stage.advance(len(chunk))
        index = io.BytesIO()
        np.savez(index, offsets=np.array(offsets), shapes=np.array(shapes), means=means, squares=squares, thumbs=thumbs)
        (partial / "index.npz").write_bytes(index.getvalue())
        (partial / "bad.json").write_text(json.dumps(bad))
        of_files: dict[str, list[int]] = {}
        for i in sorted(remarked):
            for text in remarked[i]:
                of_files.setdefault(text, []).append(i)
        (partial / "remarks.json").write_text(json.dumps(of_files))
