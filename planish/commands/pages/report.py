"""Rewrite the page of a finished job."""

from __future__ import annotations

from pathlib import Path


def report(run: str | Path) -> Path:
    """Rewrite the page of a run, comparison, experiment, evaluation, ensemble study, label issues, learning curve, backbones or search.

    Args:
        run: Folder of the run or study.

    Returns:
        The page.

    Raises:
        BundleError: the folder contains no results, or its files are damaged or inconsistent.

    Example:
        $ planish report runs/demo
    """
    from planish.errors import BundleError
    from planish.files.reading import wrap_parse_errors
    from planish.report import write_report
    from planish.report.pages.architecture_search import write_search
    from planish.report.pages.backbones import write_backbones
    from planish.report.pages.comparison import write_comparison
    from planish.report.pages.ensembles import write_ensembles
    from planish.report.pages.evaluation import write_evaluation
    from planish.report.pages.experiment import write_experiment
    from planish.report.pages.label_issues import write_label_issues
    from planish.report.pages.learning_curve import write_learning_curve

    folder = Path(run)
    pages = {
        "result": write_report, "experiment": write_experiment, "comparison": write_comparison, "evaluation": write_evaluation,
        "ensembles": write_ensembles, "label_issues": write_label_issues, "learning_curve": write_learning_curve,
        "backbones": write_backbones, "search": write_search,
    }  # fmt: skip
    write = next((write for name, write in pages.items() if (folder / f"{name}.json").exists()), write_report)
    with wrap_parse_errors(folder, BundleError, "its files are as they were written, and fit together", "run it again"):
        return write(folder)
