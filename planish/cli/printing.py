"""Print the results of each command, and determine its exit code."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planish.cli.running import fail, print_json, stdout

if TYPE_CHECKING:
    from planish.report.terminal import TerminalProgress

Arguments = Mapping[str, Any]
Show = Callable[[Any, Arguments], int | None]


def _run(result: Any, given: Arguments) -> None:
    from planish.report.terminal import candidate_table, verdict_panel

    stdout.print(candidate_table([*result.baselines.values(), *result.candidates], chosen=result.chosen.key))
    stdout.print(verdict_panel(result))
    folder = _folder(result, given)
    for label, value in (
        ("report", folder / "report.html"),
        ("bundle", folder / "bundle"),
        ("check", f"planish verify {shlex.quote(str(folder))}"),
    ):
        _line(label, value)


def _trained(result: Any, given: Arguments) -> None:
    _metrics(result.metrics, given)
    _line("model", result.folder)
    _line("page", result.folder / "evaluation.html")


def _recipes(result: Any, given: Arguments) -> None:
    if given["name"] is not None:
        print(result[given["name"]].to_yaml(), end="")
        return
    for name, recipe in result.items():
        stdout.print(f"{name:<16} {recipe.description}", soft_wrap=True)


def _checked(result: Any, given: Arguments) -> int:
    if not given["json"]:
        for each in result:
            stdout.print(f"{each.file}: {each.error or f'a valid {each.kind}'}", soft_wrap=True)
    return int(any(each.error for each in result))


def _metrics(result: Any, given: Arguments) -> None:
    from planish.report.terminal import measurements_table

    stdout.print(measurements_table(result))


def _evaluated(result: Any, given: Arguments) -> None:
    _metrics(result, given)
    if given["out"] is not None:
        _line("page", Path(given["out"]) / "evaluation.html")


def _compressed(result: Any, given: Arguments) -> None:
    for name, metrics in (("before", result.before), ("after", result.after)):
        stdout.print(f"{name}:")
        _metrics(metrics, given)
    _line("size", f"{result.size_bytes_before:,} → {result.size_bytes_after:,} bytes")
    _line("result", result.folder)


def _bench(result: Any, given: Arguments) -> None:
    from planish.cli.tables import latency_table

    stdout.print(latency_table(result))


def _explanation(result: Any, given: Arguments) -> None:
    from planish.report.pages.explanation import explanation

    stdout.print(explanation(result, given["top"], stdout.width))


def _verified(result: Any, given: Arguments) -> int:
    stdout.print(str(result), soft_wrap=True)
    return 0 if result.ok else 1


def _monitored(result: Any, given: Arguments) -> int:
    from planish.cli.tables import monitor_table
    from planish.serving.monitoring.monitor import NOTHING_COMPARED

    if not given["json"]:
        for one in result:
            stdout.print(monitor_table(one))
    if any(one.drifted for one in result):
        return 1
    if unjudged := [one for one in result if not one.compared]:
        fail(f"{'; '.join(one.verdict for one in unjudged)}. {NOTHING_COMPARED}")
    return 0


def _retrained(result: Any, given: Arguments) -> int:
    if not given["json"]:
        stdout.print(result.verdict, soft_wrap=True)
    return 0 if result.better else 1


def _data(result: Any, given: Arguments) -> None:
    from planish.cli.tables import data_lines, data_table

    found = result.report.model_dump(mode="json")
    stdout.print(data_table(found))
    for line in data_lines(found):
        stdout.print(line, markup=False, soft_wrap=True)


def _folds(result: Any, given: Arguments) -> None:
    from planish.report.pages.folds import findings, folds_table

    stdout.print(folds_table(result.trained))
    for text in findings(result):
        stdout.print(text)


def _label_issues(result: Any, given: Arguments) -> None:
    from planish.report.pages.label_issues import findings, label_issues_table

    if result.issues:
        stdout.print(label_issues_table(result))
    for text in findings(result):
        stdout.print(text)
    _line("page", _folder(result, given) / "label_issues.html")


def _learning_curve(result: Any, given: Arguments) -> None:
    from planish.report.pages.learning_curve import answer, learning_curve_table

    stdout.print(learning_curve_table(result))
    stdout.print(answer(result))
    _line("page", _folder(result, given) / "learning_curve.html")


def _backbones(result: Any, given: Arguments) -> None:
    from planish.report.pages.backbones import backbones_table, recommendation

    stdout.print(backbones_table(result.backbones))
    stdout.print(recommendation(result))
    _line("page", _folder(result, given) / "backbones.html")


def _searched(result: Any, given: Arguments) -> None:
    from planish.report.pages.architecture_search import outcome, search_table

    stdout.print(search_table(result.candidates))
    for text in outcome(result):
        stdout.print(text)
    folder = _folder(result, given)
    for label, name in (("model", "model"), ("file", "exported"), ("page", "search.html")):
        _line(label, folder / name)


def _few_shot(result: Any, given: Arguments) -> None:
    from planish.report.pages.few_shot import few_shot_table

    stdout.print(few_shot_table(result))


def _compared(result: Any, given: Arguments) -> None:
    from planish.report.pages.comparison import comparison_table

    stdout.print(comparison_table(result.rows, result.noise_floor, stdout.width))
    _line("page", _folder(result, given) / "comparison.html")


def _ensembles(result: Any, given: Arguments) -> None:
    from planish.report.pages.ensembles import ensemble_table, findings

    stdout.print(ensemble_table(result.arms, stdout.width))
    for text in findings(result):
        stdout.print(text)
    _line("page", _folder(result, given) / "ensembles.html")


def _experiment(result: Any, given: Arguments) -> None:
    from planish.report.pages.experiment import experiment_table, findings

    stdout.print(experiment_table(result.arms, stdout.width))
    for text in findings(result):
        stdout.print(text)
    _line("page", _folder(result, given) / "experiment.html")


def _doctor(result: Any, given: Arguments) -> None:
    from planish.cli.tables import doctor_table

    stdout.print(doctor_table(result))


def _labels(result: int, given: Arguments) -> None:
    from planish.serving.monitoring.labelling import ANNOTATIONS, MANIFEST

    out = Path(given["out"])
    what = f"correct {out / ANNOTATIONS}" if (out / ANNOTATIONS).exists() else f"fill in {out / MANIFEST}"
    stdout.print(f"{result} images most worth a label: {what}", soft_wrap=True)


def _tiles(result: int, given: Arguments) -> None:
    stdout.print(f"{result:,} tiles   {given['out']}", soft_wrap=True)


def _bundle(result: Path, given: Arguments) -> None:
    _line("bundle", result)


def _pulled(result: Path, given: Arguments) -> None:
    _line("bundle", result / "bundle")
    _line("check", f"planish verify {shlex.quote(str(result))}")


def _file(result: Path, given: Arguments) -> None:
    stdout.print(str(result), soft_wrap=True)


def _nothing(result: None, given: Arguments) -> None:
    pass


def _worked(result: int, given: Arguments) -> None:
    _line("steps", result)


def _line(label: str, value: object) -> None:
    stdout.print(f"{label:<8} {value}", soft_wrap=True)


def _folder(result: Any, given: Arguments) -> Path:
    from planish.commands.options import results_folder

    return results_folder(given["out"], result.name)


SHOW: dict[str, Show] = {
    "alert_rules": _file, "backbones": _backbones, "bench": _bench, "check": _checked, "compare": _compared, "compress": _compressed,
    "crossval": _folds, "data": _data, "demo": _run, "device_setup": _doctor, "doctor": _doctor, "ensembles": _ensembles,
    "evaluate": _evaluated, "experiment": _experiment, "explain": _explanation, "export": _bundle, "few_shot": _few_shot,
    "label_candidates": _labels, "label_issues": _label_issues, "learning_curve": _learning_curve, "monitor": _monitored,
    "optimize": _run, "pull": _pulled, "push": _file, "recipes": _recipes, "report": _file, "retrain": _retrained, "search": _searched,
    "serve": _nothing, "sign": _file, "synthesize": _file, "tile": _tiles, "train": _trained, "ui": _nothing, "verify": _verified,
    "worker": _worked,
}  # fmt: skip
_IN_JSON: dict[str, Callable[[Any], Any]] = {  # the part of a result that --json prints; by default all of it
    "data": lambda found: found.report.model_dump(mode="json"),
    "train": lambda found: found.metrics,
}
# commands that determine their exit code from the result even with --json
_JSON_AND_CODE = {"check": _checked, "monitor": _monitored, "retrain": _retrained}


def print_result(command: str, result: Any, given: Arguments) -> int:
    """Print the result of a command, as a table or as JSON.

    Returns:
        The exit code.
    """
    if not given.get("json"):
        return SHOW[command](result, given) or 0
    print_json(_IN_JSON.get(command, lambda found: found)(result))
    if command == "verify":
        return 0 if result.ok else 1
    return _JSON_AND_CODE[command](result, given) or 0 if command in _JSON_AND_CODE else 0


def watch_of(command: str, shown: TerminalProgress | None) -> Callable[[Any], None] | None:
    """Return the callback ``watch`` that shows a command's intermediate results; None if it has none."""
    if shown is None:
        return (lambda text: stdout.print(text, soft_wrap=True)) if command in ("serve", "ui") else None
    width = shown.console.width
    if command in ("optimize", "demo"):
        from planish.report.terminal import candidate_table

        return lambda candidates: shown.show(candidate_table(candidates, most=16))
    if command == "backbones":
        from planish.report.pages.backbones import backbones_table

        return lambda found: shown.show(backbones_table(found))
    if command == "search":
        from planish.report.pages.architecture_search import search_table

        return lambda candidates: shown.show(search_table(candidates))
    if command == "crossval":
        from planish.report.pages.folds import folds_table

        return lambda trained: shown.show(folds_table(trained))
    if command == "compare":
        from planish.report.pages.comparison import comparison_table

        return lambda rows: shown.show(comparison_table(rows, width=width))
    if command == "ensembles":
        from planish.report.pages.ensembles import ensemble_table

        return lambda arms: shown.show(ensemble_table(arms, width))
    if command == "experiment":
        from planish.report.pages.experiment import experiment_table

        return lambda arms: shown.show(experiment_table(arms, width))
    return None
