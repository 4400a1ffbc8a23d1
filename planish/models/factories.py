"""Networks built by a Python function: one in a file of the user, or one that another package adds (entry point ``planish.models``)."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from planish.artifact import Source
from planish.errors import ModelError
from planish.files.trust import file_sha256, require_trust
from planish.task import OUTPUTS

RUNS_PYTHON = "a network is built by running the Python file"


@cache
def installed_models() -> dict[str, Callable[..., Any]]:
    """Factories that other packages add through the entry point ``planish.models``, by the name of the network."""
    return {entry.name: entry.load() for entry in entry_points(group="planish.models")}


def from_package(source: Source) -> nn.Module:
    """A new network from an installed factory.

    Raises:
        ModelError: the factory fails, or does not return an ``nn.Module``.
    """
    return call(installed_models()[source.name], source.name, source)


def from_file(path: Path, name: str, source: Source) -> nn.Module:
    """A new network from a function in a Python file.

    Args:
        path: the file; it must be trusted, as its code is run.
        name: name of the function.
        source: number of classes and channels, and the hash of the file.

    Raises:
        ModelError: the file was changed, does not run, or has no such function; or the function fails.
        TrustError: the file is not trusted.
    """
    if source.sha256 and file_sha256(path) != source.sha256:
        raise ModelError(
            f"{path} has changed since this model was made from it", "a network is rebuilt from the same code", "bring it back"
        )
    require_trust(path, RUNS_PYTHON)
    with _settings_restored(path):
        code = _imported(path)
        factory: Callable[..., Any] | None = getattr(code, name, None)
        if not callable(factory):
            near = [n for n, value in vars(code).items() if callable(value) and not n.startswith("_")]
            raise ModelError(f"{path} has no function {name!r}", f"it has {', '.join(near[:8]) or 'none'}", "use FILE.py:function")
        if isinstance(factory, nn.Module):
            raise ModelError(f"{name} in {path} is a network", "what is named is a function that makes one", f"def make(): return {name}")
        return call(factory, f"{name} in {path}", source)


def _imported(path: Path) -> ModuleType:
    """The module of a Python file.

    Raises:
        ModelError: it does not run.
    """
    spec = importlib.util.spec_from_file_location(f"planish_factory_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path} cannot be imported", "it must be a Python file")
    code = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = code  # dataclasses look their module up by name
    try:
        spec.loader.exec_module(code)
    except BaseException as error:
        del sys.modules[spec.name]
        if not isinstance(error, Exception):
            raise
        fix = _import_fix(error, path) if isinstance(error, ImportError) else ""
        raise ModelError(f"{path} does not run: {type(error).__name__}: {error}", "it is imported as a Python module", fix) from error
    return code


def _import_fix(error: ImportError, path: Path) -> str:
    """Advice where the module that cannot be imported lies near the file; else empty."""
    if "relative import" in str(error):
        return f"import it without the leading dot, and set PYTHONPATH={path.resolve().parent}"
    top = (error.name or "").partition(".")[0]
    near = next(
        (folder for folder in path.resolve().parents[:3] if top and ((folder / f"{top}.py").is_file() or (folder / top).is_dir())), None
    )
    return f"set PYTHONPATH={near}" if near is not None else ""


@contextmanager
def _settings_restored(path: Path) -> Iterator[None]:
    """Run a user's file without command-line arguments, and restore afterwards what it may have set for all of torch.

    Raises:
        ModelError: its code ends the program.
    """
    arguments, gradients, dtype = sys.argv, torch.is_grad_enabled(), torch.get_default_dtype()
    sys.argv = [str(path)]
    try:
        yield
    except SystemExit as error:
        raise ModelError(
            f"{path} ends the program: SystemExit: {error}",
            "it is imported as a Python module, without command-line arguments",
            'put what it does as a script under: if __name__ == "__main__":',
        ) from error
    finally:
        sys.argv = arguments
        torch.set_grad_enabled(gradients)
        torch.set_default_dtype(dtype)


def call(factory: Callable[..., Any], name: str, source: Source) -> nn.Module:
    """The network that a factory builds for a source.

    Args:
        factory: called with those of ``num_classes``, ``channels``, ``in_chans`` and ``in_channels`` that its signature has.
        name: name of the factory, for error messages.
        source: number of classes and channels.

    Raises:
        ModelError: the factory fails, or does not return an ``nn.Module``.
    """
    offered = dict.fromkeys(("channels", "in_chans", "in_channels"), source.channels)
    counted = {} if source.task == OUTPUTS else {"num_classes": source.num_classes}  # other outputs are no classes
    offered |= counted
    parameters = inspect.signature(factory).parameters
    taken = {key: value for key, value in offered.items() if key in parameters}
    if any(p.kind == inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        taken |= counted  # def net(pretrained=False, **kwargs), as in torchvision
    try:
        built = factory(**taken)
    except Exception as error:
        raise ModelError(
            f"{name}, called with {', '.join(f'{k}={v}' for k, v in taken.items()) or 'nothing'}, failed: {type(error).__name__}: {error}",
            "a factory may take num_classes and channels (or in_chans, in_channels), and nothing else without a default",
        ) from error
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}", "it must return a torch.nn.Module")
    return built
