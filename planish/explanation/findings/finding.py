"""A finding, and the evidence from which finders derive it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planish.explanation.findings.achievable_speed import AchievableSpeed
from planish.explanation.profiles.profile import LayerProfile, Profile

WORTH = 0.04
"""Share of a call that a finding must cost: less than this a change cannot be shown to pay."""


@dataclass(frozen=True)
class Finding:
    """Something that makes the model slower or less accurate than it could be on this machine, with a fix.

    Args:
        name: identifier, such as ``signed_activations``.
        what: the observation, with numbers.
        why: the cause.
        fix: what to do.
        cost_ms: estimated time per call that the fix would save.
        layers: names of the affected layers, most costly first.
        wrong_results: the finding affects accuracy rather than latency; such findings are listed first.
    """

    name: str
    what: str
    why: str
    fix: str
    cost_ms: float
    layers: tuple[str, ...] = ()
    wrong_results: bool = False


@dataclass(frozen=True)
class Alternative:
    """A measurement of the same file with one setting changed, interleaved with the requested settings.

    Args:
        latency_ms: latency with the changed setting.
        verdict: on the changed setting: ``faster``, ``slower`` or ``no difference``.
        requested_ms: latency with the requested settings, measured in the same rounds.
    """

    latency_ms: float
    verdict: str
    requested_ms: float


@dataclass(frozen=True)
class Evidence:
    """The measurements from which finders derive findings.

    Args:
        profile: of the model.
        reach: peak speed of the machine.
        x86: whether it is an x86 processor.
        instruction_sets: of the processor, as ``planish.devices.machine`` names them.
        usable_cores: number of cores that this process may use.
        alternatives: measurements by changed setting: ``f32``, ``1 thread``, ``batch 1``.
        preprocessing_ms: from an image file to the model's input, per image; None if there are no image files.
        overflow_share: share of the output channels of integer layers whose products can overflow 16 bits in the worst case.
    """

    profile: Profile
    reach: AchievableSpeed
    x86: bool = True
    instruction_sets: tuple[str, ...] = ()
    usable_cores: int = 1
    alternatives: Mapping[str, Alternative] = field(default_factory=dict)
    preprocessing_ms: float | None = None
    overflow_share: float = 0.0

    @property
    def int8_saving(self) -> float:
        """Largest share of a float layer's time that integer arithmetic can save."""
        return max(0.0, 1 - 1 / self.reach.int8_gain)


Finder = Callable[[Evidence], Finding | None]


def slowest(profile: Profile, layers: list[LayerProfile]) -> tuple[str, ...]:
    """Return the layers' names, slowest first: those in the file, or the runtime's names where these are unknown."""
    return tuple(layer.source or layer.name for layer in sorted(layers, key=profile.ms, reverse=True))
