"""All commands with their options."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from planish.cli.compare import compare
from planish.cli.data import data, tile
from planish.cli.monitor import monitor
from planish.cli.options import (
    Batch,
    Budget,
    Changes,
    Data,
    Debug,
    Epochs,
    ImageSize,
    Json,
    LayoutName,
    Mean,
    MeanOfNetwork,
    Model,
    ModelAndData,
    NamedModel,
    Out,
    RecipeName,
    Resize,
    Resume,
    Runtime,
    Seed,
    SkipBad,
    Std,
    StdOfNetwork,
    TaskName,
    Threads,
    Train,
    Weights,
    data_in,
    model_and_data,
    numbers,
    recipe_changes,
)
from planish.cli.running import fail, one_of, print_json, progress, resume_hint, running, stdout
from planish.cli.serve import serve

app = typer.Typer(
    name="planish",
    help="Makes convolutional networks accurate, small and fast, and proves it by measurement.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(epilog="Example: planish demo --budget 7m50s")
def demo(
    task: TaskName = "classification",
    budget: Annotated[str | None, typer.Option(help="Wall-clock time for everything; by default 7m50s, with places 8m or 9m.")] = None,
    out: Out = None,
    resume: Resume = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The main job on images that come with the package: train, compress, export, measure, bundle, report."""
    from planish.commands import DEMOS

    settings = DEMOS[one_of("--task", task or "", *DEMOS)]
    _run_search(
        out=out, resume=resume, json=json, debug=debug, augmentation="none", **settings | ({} if budget is None else {"budget": budget})
    )


@app.command(
    epilog="Example: planish optimize photos/ --model mobilenet_v2 --weights imagenet --max-drop 1 --max-latency 5ms --max-size 4MB"
)
def optimize(
    data: Data,
    model: Model = "resnet20",
    weights: Weights = None,
    max_drop: Annotated[float, typer.Option(help="Points of accuracy that may be lost.")] = 1.0,
    max_latency: Annotated[str | None, typer.Option(help="Of one call: 5ms, 800us.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Of the files that ship: 4MB, 512KiB.")] = None,
    runtime: Runtime = "auto",
    threads: Threads = 1,
    batch: Batch = 1,
    budget: Budget = "20m",
    out: Out = None,
    resume: Resume = False,
    image_size: ImageSize = None,
    resize: Resize = None,
    mean: Mean = None,
    std: Std = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most, of each training; the budget may cut it short.")] = None,
    augmentation: Annotated[str, typer.Option(help="Of training images: none, light or standard.")] = "light",
    train: Train = "auto",
    task: TaskName = None,
    student: Annotated[
        list[str] | None, typer.Option(help="Another architecture to try, taught by the original; may be given again. 'none' for none.")
    ] = None,
    teachers: Annotated[
        int, typer.Option(min=1, help="Networks that teach together: the original, and others like it, trained in half of the budget.")
    ] = 1,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a network small and fast within a loss of accuracy, and prove it on the exported file."""
    _run_search(
        out=out, resume=resume, json=json, debug=debug, data=data, layout=layout, model=model, weights=weights, max_drop=max_drop,
        max_latency=max_latency, max_size=max_size, runtime=runtime, threads=threads, batch=batch, budget=budget, image_size=image_size,
        epochs=epochs, resize=None if resize is None else one_of("--resize", resize, "squash", "crop"), mean=numbers("--mean", mean),
        std=numbers("--std", std),
        augmentation=one_of("--augmentation", augmentation, "none", "light", "standard"),
        train_mode=one_of("--train", train, "auto", "always", "never"), task=task, skip_bad=skip_bad,
        students=[] if student == ["none"] else student or None, teachers=teachers, seed=seed,
    )  # fmt: skip


def _run_search(
    *, out: Path | None, resume: bool, json: bool, debug: bool, data: str, model: str, layout: str | None = None, **options: Any
) -> None:
    begun = monotonic()  # importing PyTorch counts
    with running(debug=debug, resume_hint=resume_hint(out)):
        data = data_in(data, layout)
        if resume and out is None:
            fail("--resume needs --out. It goes on with the run in that folder.")
        from planish import commands
        from planish.report.terminal import candidate_table, verdict_panel
        from planish.search.optimize import default_folder

        folder = out or default_folder(data, model)
        words = shlex.join(["planish", *sys.argv[1:]])
        with progress() as shown:
            result = commands.optimize(
                data,
                model=model,
                out=folder,
                resume=resume,
                command=words,
                watch=lambda c: shown.show(candidate_table(c, most=16)),
                begun=begun,
                **options,
            )
        if json:
            print_json(result)
            return
        stdout.print(candidate_table([*result.baselines.values(), *result.candidates], chosen=result.chosen.key))
        stdout.print(verdict_panel(result))
        for label, value in (
            ("report", folder / "report.html"),
            ("bundle", folder / "bundle"),
            ("check", f"planish verify {shlex.quote(str(folder))}"),
        ):
            stdout.print(f"{label:<8} {value}", soft_wrap=True)


app.command(
    epilog="Example: planish compare fashion-mini --vary activation=relu,elu,prelu --vary norm=batch,group --seeds 3 --budget 30m. "
    "Or ready-made: planish compare fashion-mini --topic pruning --model resnet8x2 --epochs 8"
)(compare)


@app.command(
    epilog="Example: planish train photos/ --model resnet20 --recipe scratch-small --set epochs=20 --set activation=elu --out model/"
)
def train(
    data: Data,
    model: Model = "resnet20",
    weights: Weights = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the model, or for what folds found.")] = None,
    recipe: RecipeName = None,
    changes: Changes = None,
    epochs: Epochs = None,
    budget: Annotated[str | None, typer.Option(help="Wall-clock time for everything; the schedule ends within it.")] = None,
    folds: Annotated[
        int | None, typer.Option(min=2, help="Cross-validation instead of a model: accuracy of the recipe on train and validation.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Of all folds, with other seeds; 1 by default.")] = None,
    continue_from: Annotated[
        Path | None, typer.Option(help="A run: train its network on DATA and --add, and make a bundle of it as the run's was made.")
    ] = None,
    add: Annotated[str | None, typer.Option(help="New labelled images for it: a folder, or the labels.csv of planish monitor.")] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Let the new bundle take the old one's place if tests on images that neither saw show it is better."
        ),
    ] = False,
    alpha: Annotated[
        float | None, typer.Option(help="Error of each test: how often a network that is no better would pass; 0.05 by default.")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="With --continue-from: points of accuracy that may be lost on old images; 2 by default.")
    ] = None,
    image_size: ImageSize = None,
    task: TaskName = None,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    resume: Resume = False,
    seed: Seed = 0,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a model by a recipe and evaluate it on test; or, with --folds, learn how good the recipe is without touching test."""
    begun = monotonic()  # importing PyTorch counts
    with running(debug=debug, resume_hint="Give the same command with --resume to go on."), progress() as shown:
        from planish import commands
        from planish.report.pages.folds import findings, folds_table

        data = data_in(data, layout)
        options: dict[str, Any] = {
            "model": model, "weights": weights, "recipe": recipe, "changes": recipe_changes(changes, epochs=epochs, image_size=image_size),
            "budget": budget, "skip_bad": skip_bad, "resume": resume, "seed": seed,
        }  # fmt: skip
        if folds is not None:
            found = commands.folds(
                data, folds=folds, repeats=repeats or 1, out=out, command=shlex.join(["planish", *sys.argv[1:]]), **options,
                watch=lambda trained: shown.show(folds_table(trained)),
            )  # fmt: skip
            if json:
                print_json(found)
                return
            stdout.print(folds_table(found.trained))
            for text in findings(found):
                stdout.print(text)
            return
        if (continue_from is None) != (add is None):
            fail("--continue-from and --add belong together. For example --continue-from runs/photos --add to-label/labels.csv.")
        if continue_from is not None and add is not None:
            of_training = {name: options[name] for name in ("recipe", "changes", "budget", "skip_bad", "seed")}
            of_test = {name: value for name, value in (("alpha", alpha), ("max_drop", max_drop)) if value is not None}
            continued = commands.continue_from(
                continue_from, data, add, out=out or Path("continued"), replace_served=replace, **of_training, **of_test
            )  # fmt: skip
            print_json(continued) if json else stdout.print(continued.verdict)
            if not continued.better:
                raise typer.Exit(1)
            return
        if replace or alpha is not None or max_drop is not None:
            fail("--replace, --alpha and --max-drop are only valid with --continue-from. Omit them, or name a run.")
        if repeats is not None:
            fail("--repeats has no meaning without --folds. Give, for example, --folds 5 --repeats 2.")
        trained = commands.train(
            data, task=task, out=out or Path("model"), command=shlex.join(["planish", *sys.argv[1:]]), begun=begun, **options
        )
        _show_metrics(trained.metrics, json)
        if not json:
            stdout.print(f"model    {trained.folder}\npage     {trained.folder / 'evaluation.html'}", soft_wrap=True)


@app.command(epilog="Example: planish recipes finetune-few > mine.yaml")
def recipes(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Print this one as YAML.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The recipes that come with the package, or one of them, to be changed."""
    with running(debug=debug):
        from planish import commands

        known = commands.recipes()
        if name is not None and name not in known:
            fail(f"there is no recipe {name!r}. Recipes are {', '.join(known)}.")
        if json:
            print_json(known if name is None else known[name])
        elif name is None:
            for shipped, recipe in known.items():
                stdout.print(f"{shipped:<16} {recipe.description}", soft_wrap=True)
        else:
            print(known[name].to_yaml(), end="")


@app.command(
    epilog="Example: planish evaluate runs/demo/bundle photos/ --out evaluation/   or   planish evaluate trees/ aerial/ --tile 512"
)
def evaluate(
    model_data: Annotated[
        list[str], typer.Argument(metavar="[MODEL] DATA", help="Bundle, run, saved model or .onnx file, and the images.")
    ],
    split: Annotated[
        str | None, typer.Option(help="train, calibration, validation or test; by default test, or all images where the model knows none.")
    ] = None,
    runtime: Runtime = "auto",
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Also fit a temperature on validation: log loss and calibration error with it.")
    ] = False,
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="Also evaluate up to 1000 images made noisy, blurred, foggy and so on, each 55 times.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for a page with classes, mistakes, calibration and thresholds, and what it is made of.")
    ] = None,
    precision: Annotated[float | None, typer.Option(help="Percent that the page's thresholds shall keep; 95 by default.")] = None,
    tile: Annotated[int | None, typer.Option(help="Answer large images in tiles of so many pixels, as planish tile cut them.")] = None,
    named: NamedModel = None,
    weights: Weights = None,
    mean: MeanOfNetwork = None,
    std: StdOfNetwork = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    task: TaskName = None,
    seed: Seed = 0,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """A model's metrics on images, with intervals."""
    with running(debug=debug), progress():
        from planish import commands
        from planish.task import SPLITS

        if split is not None and split not in SPLITS:
            fail(f"there is no split {split!r}. Splits are {', '.join(SPLITS)}.")
        if precision is not None and out is None:
            fail("--precision has no meaning without --out. The thresholds are in the page.")
        model, data = model_and_data(model_data, named, weights, mean, std, image_size, resize, task)
        found = commands.evaluate(
            model, data_in(data, layout), split=split, runtime=runtime, calibrate=calibrate, corruptions=corruptions, out=out, tile=tile,
            seed=seed, skip_bad=skip_bad,
            command=shlex.join(["planish", *sys.argv[1:]]), **({} if precision is None else {"precision": precision}),
        )  # fmt: skip
        _show_metrics(found, json)
        if out is not None and not json:
            stdout.print(f"page     {out / 'evaluation.html'}", soft_wrap=True)


@app.command(
    epilog="Example: planish compress model/ photos/ --plan plan.yaml   or   planish compress photos/ --model net.py:make "
    "--weights net.pth --mean 0.5 --std 0.25 --plan plan.yaml"
)
def compress(
    model_data: ModelAndData,
    plan: Annotated[Path, typer.Option(help="YAML or JSON list of techniques: '- {name: channel_pruning, pruning_ratio: 0.5}'.")],
    out: Annotated[Path, typer.Option(help="Folder for the result.")] = Path("compressed"),
    named: NamedModel = None,
    weights: Weights = None,
    mean: MeanOfNetwork = None,
    std: StdOfNetwork = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    task: TaskName = None,
    seed: Seed = 0,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Carry out a plan written by hand; metrics before and after, on test."""
    with running(debug=debug), progress():
        from planish import commands

        model, data = model_and_data(model_data, named, weights, mean, std, image_size, resize, task)
        found = commands.compress(model, data_in(data, layout), plan=plan, out=out, seed=seed, skip_bad=skip_bad)
        if json:
            print_json(found)
            return
        stdout.print("before:")
        _show_metrics(found.before, json=False)
        stdout.print("after:")
        _show_metrics(found.after, json=False)
        stdout.print(f"size     {found.size_bytes_before:,} → {found.size_bytes_after:,} bytes\nresult   {found.folder}")


@app.command(epilog="Example: planish export model/ photos/ --to openvino --int8 --out bundle/")
def export(
    model_data: ModelAndData,
    to: Annotated[str, typer.Option(help="onnx, openvino, litert, executorch, torch_export or tensorrt.")],
    out: Annotated[Path, typer.Option(help="Folder for the bundle.")] = Path("bundle"),
    int8: Annotated[bool, typer.Option("--int8", help="Quantize to 8 bits.")] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Divide the logits by a temperature fitted on validation: probabilities to be believed.")
    ] = False,
    named: NamedModel = None,
    weights: Weights = None,
    mean: MeanOfNetwork = None,
    std: StdOfNetwork = None,
    image_size: ImageSize = None,
    resize: Resize = None,
    task: TaskName = None,
    layout: LayoutName = None,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Write a model as a bundle in another format, checked against the model on real images."""
    with running(debug=debug), progress():
        from planish import commands

        model, data = model_and_data(model_data, named, weights, mean, std, image_size, resize, task)
        written = commands.export(
            model, data_in(data, layout), to=to, out=out, int8=int8, calibrate=calibrate, seed=seed, skip_bad=skip_bad
        )
        stdout.print(f"bundle   {written}")


@app.command(epilog="Example: planish bench runs/a/bundle runs/b/bundle --threads 1")
def bench(
    models: Annotated[list[str], typer.Argument(metavar="A B ...", help="Bundles, runs or .onnx files; the first is the baseline.")],
    runtime: Runtime = "auto",
    threads: Threads = 1,
    batch: Batch = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of timing for each model.")] = 2.5,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time exported models side by side; naming one twice shows what this machine makes of equals."""
    with running(debug=debug), progress():
        from planish import commands
        from planish.cli.tables import latency_table

        found = commands.bench(models, runtime=runtime, threads=threads, batch=batch, seconds=seconds)
        print_json(found) if json else stdout.print(latency_table(found))


@app.command(epilog="Example: planish explain runs/demo/bundle   or   planish explain model-int8.onnx --threads 2 --top 20")
def explain(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Bundle, run, saved model, or any .onnx or OpenVINO .xml file.")],
    runtime: Runtime = "auto",
    threads: Threads = 1,
    batch: Batch = 1,
    data: Annotated[
        str | None, typer.Option(help="Images to measure the error on, else a bundle's golden samples; a .npy of inputs for others' files.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Float model it was quantized from; without it only the rounding of activations counts as error.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Of the runtime, as your program sets it: INFERENCE_PRECISION_HINT=bf16. May be repeated.")
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Slowest layers to list; 0 for all, in the order of execution.")] = 12,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Where a model's time and error go, layer by layer; what makes it slow, and what to do about it."""
    with running(debug=debug):
        settings = dict(_setting(text) for text in setting or [])
        with progress():
            from planish import commands
            from planish.report.pages.explanation import explanation

            found = commands.explain(
                model, runtime=runtime, threads=threads, batch=batch, data=data, reference=reference, settings=settings
            )
        print_json(found) if json else stdout.print(explanation(found, top, stdout.width))


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        fail(f"--setting {text} has no value. It is NAME=VALUE, for example INFERENCE_PRECISION_HINT=bf16.")
    return name, value


@app.command(
    epilog="Example: planish sign runs/demo --key key.pem   then   planish verify runs/demo --public-key key.pub. "
    "Make the keys with: openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out key.pub"
)
def sign(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or a run's.")],
    key: Annotated[Path, typer.Option(help="Private Ed25519 key, a PEM file; keep it where only you can read it.")],
    debug: Debug = False,
) -> None:
    """Sign a bundle, so that verify and serve can tell who made it, with --public-key."""
    with running(debug=debug):
        from planish.export.bundle.folder import bundle_folder
        from planish.export.bundle.signature import sign as write

        stdout.print(str(write(bundle_folder(bundle), key)), soft_wrap=True)


@app.command(epilog="Example: planish verify runs/demo/bundle")
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle's folder, or a run's.")],
    latency: Annotated[bool, typer.Option(help="Measure the latency here, beside what the bundle promised.")] = True,
    max_latency: Annotated[str | None, typer.Option(help="Of one call, 5ms; exit code 1 where it is missed.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="Whose signature it must have: an Ed25519 key, PEM file.")] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a bundle's files, replay its golden samples and measure its latency; exit code 1 on any mismatch."""
    with running(debug=debug):
        # not by way of planish.commands: a machine that only runs models has no torch
        from planish.export.bundle.folder import bundle_folder
        from planish.export.bundle.verify import verify as check
        from planish.units import milliseconds

        limit = None if max_latency is None else milliseconds(max_latency)
        found = check(bundle_folder(bundle), latency=latency, max_latency_ms=limit, public_key=public_key)
        print_json(found) if json else stdout.print(str(found), soft_wrap=True)
        if not found.ok:
            raise typer.Exit(1)


app.command(epilog="Example: planish serve runs/demo   or   planish serve shirts=runs/demo shirts@2=runs/demo-2 --port 8080")(serve)

app.command(
    epilog="Example: planish monitor log/ runs/demo   or   planish monitor http://localhost:8000 --every 10m --webhook https://..."
)(monitor)


@app.command(epilog="Example: planish report runs/demo")
def report(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")], debug: Debug = False) -> None:
    """Write a run's page again."""
    with running(debug=debug):
        from planish import commands

        stdout.print(str(commands.report(run)))


app.command(epilog="Example: planish data photos/   or   planish data photos/ --suspects --model mobilenet_v2 --weights imagenet")(data)


app.command(epilog="Example: planish tile aerial/ --size 512 --out tiles/   then   planish train tiles/ --task detection")(tile)


@app.command(epilog="Example: planish doctor --json")
def doctor(json: Json = False, debug: Debug = False) -> None:
    """What this machine can run: hardware, versions, runtimes."""
    with running(debug=debug):
        from planish import commands
        from planish.cli.tables import doctor_table

        found = commands.doctor()
        print_json(found) if json else stdout.print(doctor_table(found))


def _show_metrics(metrics: Any, json: bool) -> None:
    from planish.report.terminal import measurements_table

    print_json(metrics) if json else stdout.print(measurements_table(metrics))


def main() -> None:
    """Entry point of ``planish``."""
    app()
