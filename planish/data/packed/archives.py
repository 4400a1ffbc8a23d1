"""ZIP and tar archives."""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from planish.data.sources.inventory import LeftOut
from planish.errors import DataError
from planish.progress import Stage

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ENCRYPTED = 1  # bit of a ZIP entry's flags


def is_archive(file: Path) -> bool:
    """Whether the name of a file is that of an archive that can be unpacked."""
    return file.name.lower().endswith(_ARCHIVES)


def write_entries(file: Path, folder: Path, stage: Stage) -> list[LeftOut]:
    """Unpack an archive.

    Args:
        file: the archive.
        folder: created; nothing is written outside it.
        stage: advanced by bytes of the archive.

    Returns:
        What was left out.

    Raises:
        DataError: it is encrypted, has names that lead out of the folder, or two files of one name.
    """
    folder.mkdir()
    return _unpack_zip(file, folder, stage) if file.suffix.lower() == ".zip" else _unpack_tar(file, folder, stage)


@contextmanager
def tar_damage_reported() -> Iterator[None]:
    """Convert the exceptions of damaged tar files within this block to ``ValueError``."""
    try:
        yield
    except (tarfile.TarError, lzma.LZMAError) as error:
        raise ValueError(f"it is damaged: {error}") from error


def _unpack_zip(file: Path, folder: Path, stage: Stage) -> list[LeftOut]:
    links: list[str] = []
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            if entry.is_dir():
                continue
            if entry.flag_bits & _ENCRYPTED:
                raise DataError(f"{file.name} is encrypted", "archives are read without a password", "unpack it and give the folder")
            if stat.S_ISLNK(entry.external_attr >> 16):
                links.append(entry.filename)
                continue
            place = _safe(file, folder, entry.filename)
            place.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as content, place.open("xb") as written:
                shutil.copyfileobj(content, written)
            stage.advance(entry.compress_size)
    return _left_out(links)


def _unpack_tar(file: Path, folder: Path, stage: Stage) -> list[LeftOut]:
    links: list[str] = []
    read = 0
    with file.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as archive:
        for entry in archive:
            if entry.isfile():
                place = _safe(file, folder, entry.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(entry)
                assert content is not None
                with content, place.open("xb") as written:
                    shutil.copyfileobj(content, written)
            if entry.issym() or entry.islnk():
                links.append(entry.name)
            stage.advance(raw.tell() - read)
            read = raw.tell()
    return _left_out(links)


def _left_out(links: list[str]) -> list[LeftOut]:
    return [LeftOut(what="files", reason="links of an archive", count=len(links), examples=links[:3])] if links else []


def _safe(file: Path, folder: Path, name: str) -> Path:
    """The place of an entry below the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts or ":" in path.parts[0]:
        raise DataError(f"{file.name} has an entry {name[:100]!r}", "names of entries are below the archive's own folder")
    place = folder / path
    if place.exists():
        raise DataError(f"{file.name} has two entries {name[:100]!r}", "each file has a name of its own", "unpack it and give the folder")
    return place
