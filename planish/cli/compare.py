"""The command that compares modifications, techniques of compression, or ensembles."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from planish.cli.options import Data, Debug, ImageSize, Json, LayoutName, Out, Resume, Seed, SkipBad, TaskName, Weights, data_in
from planish.cli.running import fail, one_of, print_json, progress, resume_hint, running, stdout


def compare(
    data: Data,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="A modification, or a key of the recipe, and its values, the reference first; given again for another factor."),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            help="A ready-made comparison. Of compression: pruning, quantization, planning. Of modifications: initialization, activation, "
            "pooling, normalization, augmentation, regularization, depth-width, shortcuts, transfer. And ensembles."
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="resnet20, torchvision:NAME, timm:NAME, or FILE.py:factory.")] = None,
    weights: Weights = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each training; of the original's, where compression is compared.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Modifications, ensembles: what all arms share; a recipe's name or a YAML file.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Modifications, ensembles: a value for all arms: batch_size=32.")
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="Modifications: factorial combines all values; one varies one factor at a time.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Modifications, ensembles: trainings of each arm, 3 by default.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Modifications, ensembles: wall-clock time; without --epochs it is shared out.")
    ] = None,
    runtime: Annotated[str | None, typer.Option(help="Compression, ensembles: onnxruntime (default) or openvino.")] = None,
    threads: Annotated[int | None, typer.Option(help="Compression, ensembles: threads the runtime may use, 1 by default.")] = None,
    batch: Annotated[int | None, typer.Option(help="Compression, ensembles: images in a batch, 1 by default.")] = None,
    recovery_epochs: Annotated[int | None, typer.Option(min=1, help="Compression: of distillation, for every arm that trains; 2.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="Compression: of training images: none, light (default) or standard.")] = None,
    train: Annotated[str | None, typer.Option(help="Compression: auto, always or never train the original.")] = None,
    image_size: ImageSize = None,
    task: TaskName = None,
    layout: LayoutName = None,
    out: Out = None,
    resume: Resume = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What a modification or a technique of compression brings, measured fairly: equal budget, paired, with intervals."""
    with running(debug=debug, resume_hint=resume_hint(out)):
        from planish import commands
        from planish.experiments.experiment import factors_of
        from planish.experiments.studies import STUDIES
        from planish.experiments.topics import TOPICS
        from planish.report.pages.comparison import comparison_table
        from planish.report.pages.ensembles import ensemble_table
        from planish.report.pages.ensembles import findings as gains
        from planish.report.pages.experiment import experiment_table, findings

        data = data_in(data, layout)
        shared: dict[str, Any] = {
            "weights": weights, "epochs": epochs, "out": out, "resume": resume, "skip_bad": skip_bad, "seed": seed,
            "command": shlex.join(["planish", *sys.argv[1:]]),
        } | ({"model": model} if model else {})  # fmt: skip
        of_training: dict[str, Any] = {"recipe": recipe, "changes": changes, "seeds": seeds, "budget": budget}
        of_files: dict[str, Any] = {"runtime": runtime, "threads": threads, "batch": batch}
        of_modifications: dict[str, Any] = {**of_training, "design": design, "task": task}
        of_compression: dict[str, Any] = {
            **of_files, "task": task, "recovery_epochs": recovery_epochs, "augmentation": augmentation, "train_mode": train,
        }  # fmt: skip
        meant = {"modifications": of_modifications, "compression": of_compression, "ensembles": {**of_training, **of_files}}
        topics = {"compression": [*TOPICS], "modifications": [*STUDIES], "ensembles": ["ensembles"]}
        known = ", ".join(name for names in topics.values() for name in names)
        if (vary is None) == (topic is None):
            fail(f"what shall be compared? Give --vary FACTOR=A,B, or --topic with one of {known}.")
        kind = "modifications" if topic is None else next((kind for kind, names in topics.items() if topic in names), "")
        if not kind:
            fail(f"there is no topic {topic!r}. Topics are {known}.")
        wrong = [name for name, value in (of_modifications | of_compression).items() if value is not None and name not in meant[kind]]
        if wrong:
            option = {"changes": "set", "train_mode": "train"}.get(wrong[0], wrong[0].replace("_", "-"))
            fail(f"--{option} is only valid for comparing {' and '.join(k for k, o in meant.items() if wrong[0] in o)}.")
        given = {name: value for name, value in meant[kind].items() if value is not None}
        if image_size is not None and kind != "compression":
            given["changes"] = [*(changes or ()), f"image_size={image_size}"]
        with progress() as shown:
            if kind == "compression":
                if augmentation is not None:
                    one_of("--augmentation", augmentation, "none", "light", "standard")
                if train is not None:
                    one_of("--train", train, "auto", "always", "never")
                found = commands.compare(
                    data, topic=topic, image_size=image_size, **shared, **given,
                    watch=lambda rows: shown.show(comparison_table(rows, width=shown.console.width)),
                )  # fmt: skip
            elif kind == "ensembles":
                study = commands.ensembles(
                    data, **shared, **given, watch=lambda arms: shown.show(ensemble_table(arms, shown.console.width))
                )
            else:
                if design is not None:
                    one_of("--design", design, "factorial", "one")
                options: dict[str, Any] = {**shared, **given, "watch": lambda arms: shown.show(experiment_table(arms, shown.console.width))}
                result = commands.study(data, topic, **options) if topic else commands.vary(data, factors=factors_of(vary or ()), **options)
        if json:
            print_json(found if kind == "compression" else study if kind == "ensembles" else result)
            return
        if kind == "compression":
            stdout.print(comparison_table(found.rows, found.noise_floor, stdout.width))
            stdout.print(f"page     {out or Path('runs') / found.name}/comparison.html", soft_wrap=True)
            return
        if kind == "ensembles":
            stdout.print(ensemble_table(study.arms, stdout.width))
            for text in gains(study):
                stdout.print(text)
            stdout.print(f"page     {out or Path('runs') / study.name}/ensembles.html", soft_wrap=True)
            return
        stdout.print(experiment_table(result.arms, stdout.width))
        for text in findings(result):
            stdout.print(text)
        stdout.print(f"page     {out or Path('runs') / result.name}/experiment.html", soft_wrap=True)
