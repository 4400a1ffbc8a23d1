"""What a device is, and what changed on it while it was measuring."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planish.devices.remote.on_device import RUNTIMES
from planish.progress import note

_HOT = 80.0  # degrees Celsius; most processors slow down from about here
_SLOWER = 0.9  # frequency after a measurement relative to that before, below which the processor was slowed down


def describe_device(found: Mapping[str, Any]) -> str:
    """Describe a device in a line: processor, cores, runtimes, and what its speed depends on."""
    runtimes = ", ".join(f"{name} {found[name]}" for name in RUNTIMES if found.get(name)) or "no runtime"
    parts = [f"{found['cpu']} ({found['architecture']}, {found['logical_cores']} cores)", runtimes]
    parts += [f"governor {found['governor']}"] if "governor" in found else []
    parts += [f"{found['temperature_celsius']:.0f} degrees Celsius"] if "temperature_celsius" in found else []
    return "; ".join(parts)


def note_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Note if the processor became hot or slower during a measurement, or other programs used it."""
    degrees, mhz = after.get("temperature_celsius", 0.0), after.get("frequency_mhz", 0)
    if degrees >= _HOT:
        note(f"the device is at {degrees:.0f} degrees Celsius, where processors slow down: cool it, or measure for a shorter time")
    if mhz < _SLOWER * before.get("frequency_mhz", 0):
        note(f"the device's processor runs at {mhz} MHz after the measurement, and ran at {before['frequency_mhz']} MHz before")
    if after.get("governor", "performance") != "performance":
        note(f"the device's governor is {after['governor']}, with which the frequency varies; performance keeps it")
