"""The models that wrote a log, and a check that it has predictions of the given bundles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from planish.errors import BundleError, DataError
from planish.export.bundle.folder import SEAL
from planish.files.reading import read_text, wrap_parse_errors

_LISTED = 5  # maximum number of models or bundles listed in an error
SEAL_LENGTH = 12  # characters of the bundle's hash that a record contains


class EmptyLogError(DataError):
    """A log without predictions, such as that of a service that has just been started."""


class LogContents:
    """Counts a log's predictions by model, version and bundle."""

    def __init__(self) -> None:
        self._counts = Counter[tuple[str, str, str]]()
        self._last: dict[tuple[str, str, str], float] = {}  # seconds since 1970

    def add(self, record: Mapping[str, Any]) -> None:
        """Count one record."""
        key = record["model"], record["version"], record["bundle"]
        self._counts[key] += 1
        self._last[key] = max(self._last.get(key, 0.0), record["time"])

    @property
    def models(self) -> list[tuple[str, str]]:
        """Name and version of each model, the one with most predictions first."""
        return list(dict.fromkeys((model, version) for (model, version, _), _ in self._counts.most_common()))

    def check(self, log: Path, bundles: Mapping[tuple[str, str], Path]) -> None:
        """Check that the log has predictions of each of these bundles.

        Args:
            log: folder of the log, for error messages.
            bundles: folders by name and version.

        Raises:
            EmptyLogError: the log has no predictions at all.
            DataError: the log has no predictions of one of the bundles.
        """
        if not self._counts:
            raise EmptyLogError(f"{log} has no predictions", "a service writes them while it answers images: planish serve --log FOLDER")
        for (name, version), folder in bundles.items():
            seal = bundle_seal(folder)
            if self._counts[name, version, seal]:
                continue
            of_name = [key for key in self._counts if key[:2] == (name, version)]
            if of_name:
                raise DataError(
                    f"the log's predictions of {name} version {version} are of another bundle than {folder}: it has the hash {seal}, "
                    f"the log has {self._listed(of_name)}",
                    "drift is measured against the bundle that made the predictions",
                    "give the bundle that was served",
                )
            named = next(((model, of) for model, of, bundle in self._counts if bundle == seal), None)
            raise DataError(
                f"the log has no predictions of {name} version {version} ({folder}); it has {self._listed(list(self._counts))}",
                "a bundle is named as it was when it was served",
                f"planish monitor {log} {_as_served(*named, folder)}" if named else "give the bundle that was served, or omit this one",
            )

    def _listed(self, keys: list[tuple[str, str, str]]) -> str:
        keys = sorted(keys, key=lambda key: -self._counts[key])
        parts = [
            f"{model} version {version} (bundle {bundle[:SEAL_LENGTH]}, {self._counts[model, version, bundle]:,} predictions, "
            f"last {datetime.fromtimestamp(self._last[model, version, bundle], UTC):%Y-%m-%d %H:%M})"
            for model, version, bundle in keys[:_LISTED]
        ]
        return ", ".join(parts) + f" and {len(keys) - _LISTED} more" * (len(keys) > _LISTED)


def bundle_seal(folder: Path) -> str:
    """Return the beginning of a bundle's hash, as in the records of a log.

    Raises:
        BundleError: the bundle's hash is missing or unreadable.
    """
    with wrap_parse_errors(folder / SEAL, BundleError, "it identifies the bundle", "make the bundle again"):
        return read_text(folder / SEAL)[:SEAL_LENGTH]


def _as_served(name: str, version: str, folder: Path) -> str:
    return f"{name}={folder}" if version == "1" else f"{name}@{version}={folder}"
