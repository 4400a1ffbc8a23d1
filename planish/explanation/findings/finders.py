"""All finders, and the function that runs them."""

from __future__ import annotations

from planish.explanation.findings import integers as integer_findings
from planish.explanation.findings import settings as setting_findings
from planish.explanation.findings import shapes as shape_findings
from planish.explanation.findings.finding import WORTH, Evidence, Finding

_FINDERS = (*integer_findings.FINDERS, *shape_findings.FINDERS, *setting_findings.FINDERS)


def find_all(evidence: Evidence) -> list[Finding]:
    """Return every finding whose cost matters: wrong results first, then by cost in descending order."""
    found = [finding for finder in _FINDERS if (finding := finder(evidence)) is not None]
    least = WORTH * evidence.profile.latency_ms
    return sorted((f for f in found if f.wrong_results or f.cost_ms >= least), key=lambda f: (not f.wrong_results, -f.cost_ms))
