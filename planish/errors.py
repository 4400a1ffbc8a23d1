"""Errors people can act on: what was received, the rule, and the nearest thing that works."""

from __future__ import annotations

import re

from planish.printable import printable

# File, line and function in ONNX Runtime's messages.
_CPP_PLACE = re.compile(r"\S{1,300}\.(?:cc|cpp|h|hpp):\d{1,9} [^ ]{1,300} ?.{0,1000}?\) (?=\S)")
_LONGEST = 4000  # characters of a part of a message: files can hold names of a million


def shortened(text: str, length: int) -> str:
    """The text with its middle left out where it is longer."""
    return text if len(text) <= length else f"{text[: length // 2]} [...] {text[-length // 2 :]}"


class PlanishError(Exception):
    """A mistake or a limit the user can do something about.

    The command line prints the message without a traceback and exits with code 2.

    Args:
        received: what was given, quoted where it came from the user.
        rule: what would have been right.
        fix: the nearest thing that works; may be empty where the rule says it all.
    """

    def __init__(self, received: str, rule: str = "", fix: str = "") -> None:
        self.received, self.rule, self.fix = received, rule, fix
        parts = [shortened(part, _LONGEST) for part in (received, rule, fix) if part]
        super().__init__(printable(" ".join(part if part.endswith(("?", "!", ".")) else part + "." for part in parts)))


class DataError(PlanishError):
    """Images, labels or splits that cannot be used."""


class ModelError(PlanishError):
    """A network or weights that cannot be used."""


class TrainingError(PlanishError):
    """Training that cannot go on, a NaN loss above all."""


class TechniqueError(PlanishError):
    """A technique that does not apply to this artifact. Inside a plan the step is named."""


class PlanError(PlanishError):
    """A plan that cannot be read or whose steps do not combine."""


class ExportError(PlanishError):
    """A model that cannot be exported, or whose file does not agree with the original."""


class RuntimeMissingError(PlanishError):
    """A runtime that is not installed, or that this machine cannot run."""


class BundleError(PlanishError):
    """A bundle or a run folder that is incomplete, changed, or does not replay."""


class TrustError(PlanishError):
    """A file that can run code when it is opened, and that nobody vouches for; see ``planish.files.trust``."""


class GoalError(PlanishError):
    """A goal that cannot be read: '--max-latency fast'."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 300 characters; its kind where it has none.

    Where in a C++ library it was raised is left out, and of a first line that only announces the reason (OpenVINO's) the next is taken too.
    """
    lines = [line.strip()[:_LONGEST] for line in str(error)[:1_000_000].splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return printable(_CPP_PLACE.sub("", text)[:300])
