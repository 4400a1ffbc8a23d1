"""What a finding is, and what it is found from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from planish.explanation.findings.achievable_speed import AchievableSpeed
from planish.explanation.profiles.profile import LayerProfile, Profile

WORTH = 0.04
"""Share of a call that a finding must cost: less than this a change cannot be shown to pay."""


@dataclass(frozen=True)
class Finding:
    """Something that makes the model slower or less accurate than it could be here, with a fix that pays.

    Args:
        name: for programs: ``signed_activations``.
        what: was seen, with numbers.
        why: it costs.
        fix: what to do.
        cost_ms: estimated, per call; what the fix would save.
        layers: names of the layers concerned, most costly first.
        wrong_results: it does not cost time but accuracy, and comes first.
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
    """The same file measured with one thing changed, interleaved with the model as asked for.

    Args:
        latency_ms: of a call.
        verdict: of the alternative: ``faster``, ``slower`` or ``no difference``.
        asked_ms: of a call as asked for, in the same rounds.
    """

    latency_ms: float
    verdict: str
    asked_ms: float


@dataclass(frozen=True)
class Evidence:
    """All that findings are found from.

    Args:
        profile: of the model.
        reach: of the machine.
        x86: whether the processor is one.
        instruction_sets: of the processor, as ``planish.devices.machine`` names them.
        usable_cores: by this process.
        alternatives: by what was changed: ``f32``, ``1 thread``, ``batch 1``.
        preprocessing_ms: from an image file to the model's input, per image; None where there are no files to try.
        full_range: share of the output channels of integer convolutions whose weights overflow 16 bits in the worst case.
    """

    profile: Profile
    reach: AchievableSpeed
    x86: bool = True
    instruction_sets: tuple[str, ...] = ()
    usable_cores: int = 1
    alternatives: Mapping[str, Alternative] = field(default_factory=dict)
    preprocessing_ms: float | None = None
    full_range: float = 0.0

    @property
    def int8_saving(self) -> float:
        """Share of a float layer's time that integer arithmetic saves at most."""
        return max(0.0, 1 - 1 / self.reach.int8_gain)


Finder = Callable[[Evidence], Finding | None]


def slowest(profile: Profile, layers: list[LayerProfile]) -> tuple[str, ...]:
    """Their names in the file, as far as they are known, most costly first."""
    return tuple(layer.source or layer.name for layer in sorted(layers, key=profile.ms, reverse=True))
