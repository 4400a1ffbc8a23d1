"""The command about a data set: what is in it, and what can be learned from it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.options import (
    Changes,
    Data,
    Debug,
    Epochs,
    ImageSize,
    Json,
    LayoutName,
    Out,
    RecipeName,
    Resume,
    Seed,
    SkipBad,
    TaskName,
    Weights,
    data_in,
    recipe_changes,
)
from planish.cli.running import fail, print_json, progress, resume_hint, running, stdout


def data(
    data: Data,
    suspects: Annotated[
        bool, typer.Option("--suspects", help="Train in folds, and list images whose label is probably wrong, with a page to look at them.")
    ] = False,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Train on more and more of the images: would twice as many help?")
    ] = False,
    few_shot: Annotated[
        str | None, typer.Option(help="Images a class, 1,5,10: what they are enough for, by a linear classifier on a frozen network.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="resnet20 by default, mobilenet_v2 for --few-shot.")] = None,
    weights: Weights = None,
    recipe: RecipeName = None,
    changes: Changes = None,
    epochs: Epochs = None,
    image_size: ImageSize = None,
    task: TaskName = None,
    layout: LayoutName = None,
    folds: Annotated[int | None, typer.Option(min=2, help="That images are cut into: 5 by default, 3 for --learning-curve.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of all folds, with other seeds, 1 by default; of few-shot draws, 10.")] = None,
    budget: Annotated[str | None, typer.Option(help="Wall-clock time for all trainings; each has an equal share.")] = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What is in a data set: classes, splits, broken files, duplicates, leaks; by training, wrong labels and what more images bring."""
    of_training: dict[str, Any] = {
        "recipe": recipe, "set": changes, "epochs": epochs, "folds": folds, "budget": budget, "out": out, "resume": resume or None,
    }  # fmt: skip
    of_network: dict[str, Any] = {"model": model, "weights": weights, "image-size": image_size, "repeats": repeats}
    with running(debug=debug, resume_hint=resume_hint(out) if suspects or learning_curve else ""), progress():
        from planish import commands

        data = data_in(data, layout)
        if suspects + learning_curve + (few_shot is not None) > 1:
            fail("--suspects, --learning-curve and --few-shot are questions of their own. Ask one after the other.")
        trains = suspects or learning_curve
        if task not in (None, "classification") and (trains or few_shot is not None):
            fail(f"--task {task} is not possible with --suspects, --learning-curve and --few-shot. They are for classification.")
        unused = {} if trains else of_training if few_shot is not None else of_training | of_network
        if wrong := [name for name, value in unused.items() if value is not None]:
            also = "" if wrong[0] in of_training else ", --few-shot"
            fail(f"--{wrong[0]} is only valid for --suspects, --learning-curve{also}.")
        shared: dict[str, Any] = {"skip_bad": skip_bad, "seed": seed} | _given(model=model, weights=weights)
        if trains:
            shared |= _given(recipe=recipe, folds=folds, repeats=repeats, budget=budget, out=out) | {"resume": resume}
            shared |= {
                "changes": recipe_changes(changes, epochs=epochs, image_size=image_size),
                "command": shlex.join(["planish", *sys.argv[1:]]),
            }
        if suspects:
            _show_suspects(commands.suspects(data, **shared), out, json)
        elif learning_curve:
            _show_learning_curve(commands.learning_curve(data, **shared), out, json)
        elif few_shot is not None:
            from planish.report.pages.few_shot import few_shot_table

            shared |= _given(image_size=image_size, draws=repeats)
            probed = commands.few_shot(data, shots=_numbers("--few-shot", few_shot), **shared)
            print_json(probed) if json else stdout.print(few_shot_table(probed))
        else:
            from planish.cli.tables import data_lines, data_table

            found = commands.data(data, task=task, **shared).report.model_dump(mode="json")
            if json:
                print_json(found)
                return
            stdout.print(data_table(found))
            for line in data_lines(found):
                stdout.print(line, markup=False, soft_wrap=True)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        fail(f"{option} {text} cannot be read. It is whole numbers with commas, for example 1,5,10.")


def _show_suspects(found: Any, out: Path | None, json: bool) -> None:
    from planish.report.pages.label_issues import findings, label_issues_table

    if json:
        print_json(found)
        return
    if found.issues:
        stdout.print(label_issues_table(found))
    for text in findings(found):
        stdout.print(text)
    stdout.print(f"page     {out or Path('runs') / found.name}/label_issues.html", soft_wrap=True)


def _show_learning_curve(found: Any, out: Path | None, json: bool) -> None:
    from planish.report.pages.learning_curve import answer, learning_curve_table

    if json:
        print_json(found)
        return
    stdout.print(learning_curve_table(found))
    stdout.print(answer(found))
    stdout.print(f"page     {out or Path('runs') / found.name}/learning_curve.html", soft_wrap=True)


def tile(
    data: Data,
    size: Annotated[int, typer.Option(help="Pixels of a tile's side.")],
    out: Annotated[Path, typer.Option(help="Folder for the tiles; it must not exist yet.")],
    overlap: Annotated[
        float, typer.Option(help="Share of a tile that its neighbour shows as well; at least as wide as most objects.")
    ] = 0.25,
    task: TaskName = None,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Cut large images with boxes, masks or label maps into overlapping tiles, to train on."""
    with running(debug=debug), progress():
        from planish import commands

        count = commands.tile(data_in(data, layout), size=size, out=out, overlap=overlap, task=task, skip_bad=skip_bad, seed=seed)
        stdout.print(f"{count:,} tiles   {out}", soft_wrap=True)
