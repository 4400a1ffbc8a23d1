"""The command that looks for drift in what a service logged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from planish.cli.options import Correlation, Cycle, Debug, Json, drift_settings
from planish.cli.running import fail, print_json, progress, running, stdout


def monitor(
    source: Annotated[str, typer.Argument(metavar="LOG|URL", help="Folder of planish serve --log, or the address of a service.")],
    bundles: Annotated[
        list[str] | None, typer.Argument(metavar="BUNDLE...", help="What was served, named as it was served; not needed for an address.")
    ] = None,
    false_alarms: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Share of periods without drift that may give an alarm.")] = 0.05,
    period: Annotated[str, typer.Option(help="week or day; each is judged anew.")] = "week",
    correlation: Correlation = "60s",
    cycle: Cycle = "none",
    every: Annotated[str | None, typer.Option(help="Look again and again: 1m, 1h. Ends at the first alarm that the webhook took.")] = None,
    webhook: Annotated[
        str | None,
        typer.Option(envvar="PLANISH_WEBHOOK", help="Address that is told of an alarm, as JSON. It is printed nowhere."),
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option("--keys", exists=True, dir_okay=False, help="As of planish serve; the first key is given to the service."),
    ] = None,
    label: Annotated[int | None, typer.Option(min=1, help="Copy that many logged images to --out: those most worth a label.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for them; it gets a labels.csv to fill in.")] = None,
    rules: Annotated[Path | None, typer.Option(help="Write alert rules for Prometheus to this file.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Has what comes in changed since the model was made? Exit code 1 if so, 2 if that cannot be said."""
    with running(debug=debug), progress():
        from planish.cli.tables import monitor_table
        from planish.serving.http.key_file import read_keys
        from planish.serving.monitoring.labelling import worth_labelling
        from planish.serving.monitoring.monitor import ALERT_RULES, NOTHING_COMPARED, is_address
        from planish.serving.monitoring.monitor import monitor as look  # planish.commands would bring torch, which is not needed here
        from planish.units import seconds

        if (label is None) != (out is None):
            fail("--label and --out belong together. For example --label 50 --out to-label.")
        if out is not None and out.exists():
            fail(f"--out {out} exists already. Choose another.")
        if label is not None and is_address(source):
            fail("--label takes images from the folder of a log, not from an address.")
        settings = drift_settings(correlation, cycle, false_alarms, period)
        if rules is not None:
            rules.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ALERT_RULES, rules)
        every_s = None if every is None else seconds(every)
        found = look(
            source, bundles or (), settings=settings, every_s=every_s, webhook=webhook, key=None if keys is None else read_keys(keys)[0]
        )
        if json:
            print_json(found)
        else:
            for one in found:
                stdout.print(monitor_table(one))
        if label is not None and out is not None:
            count = worth_labelling(Path(source), out, label, bundles or ())
            if not json:
                stdout.print(f"{count} images most worth a label: fill in {out / 'labels.csv'}", soft_wrap=True)
        if any(one.drifted for one in found):
            raise typer.Exit(1)
        if unjudged := [one for one in found if not one.compared]:
            fail(f"{'; '.join(one.verdict for one in unjudged)}. {NOTHING_COMPARED}")
