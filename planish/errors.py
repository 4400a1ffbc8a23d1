"""Errors that users can act on: each states what was received, the rule, and the nearest thing that works."""

from __future__ import annotations

import re

from planish.printable import printable

# File, line and function in ONNX Runtime's messages.
_NO_CAUSE = re.compile(
    r"Exception from \S+:\d+:|Check '[^']*' failed at \S+:\d+:|FrontEnd API failed with \w+:|Loading input model|Summary:|Details:"
    r"|Model wasn't fully converted\..*|-- .* with a message:"
)
_CPP_PLACE = re.compile(r"\S{1,300}\.(?:cc|cpp|h|hpp):\d{1,9} [^ ]{1,300} ?.{0,1000}?\) (?=\S)")
_LONGEST = 4000  # maximum characters of a part of a message: names in files can have a million


def shortened(text: str, length: int) -> str:
    """Return the text, with its middle replaced by ``[...]`` if it is longer than ``length``."""
    return text if len(text) <= length else f"{text[: length // 2]} [...] {text[-length // 2 :]}"


class PlanishError(Exception):
    """An error that the user can fix or work around.

    The command line prints the message without a traceback and exits with code 2.

    Args:
        received: what was given, quoted if it came from the user.
        rule: what is valid.
        fix: the nearest thing that works; may be empty if the rule is enough.
    """

    def __init__(self, received: str, rule: str = "", fix: str = "") -> None:
        self.received, self.rule, self.fix = received, rule, fix
        parts = [shortened(part, _LONGEST) for part in (received, rule, fix) if part]
        super().__init__(printable(" ".join(part if part.endswith(("?", "!", ".")) else part + "." for part in parts)))


class DataError(PlanishError):
    """Images, labels or splits that cannot be used."""


class ModelError(PlanishError):
    """A network or weights that cannot be used."""


class WeightsMissingError(ModelError):
    """Pretrained weights of a library that cannot be downloaded, or do not exist."""


class DeviceError(PlanishError):
    """A device that cannot be reached or used."""


class ConnectionLostError(DeviceError):
    """A connection to a device that was lost. What was going on is repeated a few times, then the job stops; ``--resume`` continues it."""


class TrainingError(PlanishError):
    """Training that cannot continue, most often because the loss is NaN."""


class TechniqueError(PlanishError):
    """A technique that does not apply to this artifact. Within a plan the message names the step."""


class PlanError(PlanishError):
    """A plan that cannot be read, or whose steps cannot be combined."""


class ExportError(PlanishError):
    """A model that cannot be exported, or whose exported file does not match the original."""


class RuntimeMissingError(PlanishError):
    """A runtime that is not installed, or that this machine cannot run."""


class BundleError(PlanishError):
    """A bundle or run folder that is incomplete or was modified, or a bundle whose golden samples do not reproduce."""


class HubError(PlanishError):
    """A repository on the Hugging Face Hub that cannot be read or written."""


class TrustError(PlanishError):
    """A file that can execute code when it is opened and that is not trusted; see ``planish.files.trust``."""


class GoalError(PlanishError):
    """A goal or an option that is not valid: ``--max-latency fast``."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, at most 300 characters; the error's type if there is no message.

    The source location in a C++ library is removed, and so are the lines in which OpenVINO only gives locations or announces the cause. If
    the first line ends with a colon (as in OpenVINO), the next line is appended.
    """
    lines = [line.strip()[:_LONGEST] for line in str(error)[:1_000_000].splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    lines = [line.removeprefix("-- ") for line in lines if not _NO_CAUSE.fullmatch(line)] or lines
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return printable(_CPP_PLACE.sub("", text)[:300])
