"""Verification of a bundle, on this machine or on a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from planish.export.bundle.verify import VerifyReport


def verify(
    bundle: str | Path,
    *,
    device: str | None = None,
    latency: Annotated[bool, Parameter(negative="--no-latency")] = True,
    max_latency: str | float | None = None,
    public_key: str | Path | None = None,
) -> VerifyReport:
    """Check a bundle's files, replay its golden samples and measure its latency; exit code 1 on any mismatch.

    This does not require PyTorch.

    Args:
        bundle: Folder of a bundle or a run; or hf://OWNER/NAME on the Hugging Face Hub, which is downloaded to a temporary folder.
        device: Device that the model runs on: ssh://user@host:port/path/of/python; by default this machine.
        latency: Measure the latency, next to the recorded one.
        max_latency: Maximum latency of one batch: 5ms; exit code 1 if it is exceeded.
        public_key: Public Ed25519 key, a PEM file, that the bundle must be signed with.

    Returns:
        A report of the checks and their failures.

    Raises:
        BundleError: there is no bundle, or the key cannot be used.
        DeviceError: the device cannot be reached.
        HubError: the repository on the Hub cannot be read.

    Example:
        $ planish verify runs/demo/bundle
        $ planish verify hf://user/photos --no-latency
        $ planish verify runs/demo/bundle --device ssh://pi@raspberry.local
    """
    from dataclasses import replace

    from planish.devices.device import using_device
    from planish.export.bundle.folder import bundle_folder
    from planish.export.bundle.verify import verify as check
    from planish.hub.repository import local_copy
    from planish.units import milliseconds

    limit = None if max_latency is None else milliseconds(max_latency)
    key = None if public_key is None else Path(public_key)
    with local_copy(bundle) as place, using_device(device):
        folder = bundle_folder(place)
        report = check(folder, latency=latency, max_latency_ms=limit, public_key=key)
    return report if place == Path(bundle) else replace(report, folder=str(bundle))
