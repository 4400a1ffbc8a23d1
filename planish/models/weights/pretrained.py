"""Pretrained weights of many networks: from their libraries, or from a folder of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from planish.errors import ModelError

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def weights_of_each(weights: str | Path, names: Sequence[str]) -> dict[str, str | Path | None]:
    """Return the weights of each network: ``imagenet``, a file, or None.

    Args:
        weights: ``imagenet`` for those of the libraries, ``none``, or a folder with files named after the networks: ``resnet18.pth``.
        names: networks, such as ``timm:resnet18``.

    Raises:
        ModelError: there is no such folder, or it has no file for any of the networks.
    """
    if str(weights) in ("imagenet", "none"):
        return dict.fromkeys(names, None if str(weights) == "none" else "imagenet")
    folder = Path(weights)
    if not folder.is_dir():
        raise ModelError(
            f"{weights} is no folder", "--weights is imagenet, none, or a folder with a file for each network", "name a folder"
        )
    found: dict[str, str | Path | None] = {}
    for name in names:
        paths = [folder / f"{name.rpartition(':')[2]}{suffix}" for suffix in _SUFFIXES]
        found[name] = next((path for path in paths if path.is_file()), None)
    if not any(found.values()):
        example = f"{names[0].rpartition(':')[2]}.safetensors"
        raise ModelError(f"{weights} has no weights of these networks", "a file is named after its network", f"for example {example}")
    return found


def licence_of(name: str) -> str:
    """Return the licence that timm states for a network's weights, such as ``apache-2.0``; empty if there is none."""
    library, _, short = name.rpartition(":")
    if library != "timm":
        return ""
    import timm

    known = timm.get_pretrained_cfg(short) if timm.is_model(short.partition(".")[0]) else None
    return str(known.license) if known is not None and known.license else ""
