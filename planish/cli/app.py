"""The command line, generated from the functions in ``planish.commands``."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from typing import Annotated, Any, NoReturn

from cyclopts import App, CycloptsError, Group, Parameter

import planish
from planish import commands
from planish.cli.arguments import arguments
from planish.cli.printing import print_result, watch_of
from planish.cli.running import fail, progress, resume_hint, running
from planish.files.workspace import CACHE_SIZE
from planish.invocation import invoked

_GROUPS = {
    "Main job": ("optimize", "demo", "report", "ui"),
    "Models": ("train", "evaluate", "compress", "export", "bench", "explain", "recipes", "check"),
    "Data": ("data", "tile", "synthesize", "label_issues", "learning_curve", "few_shot", "crossval"),
    "Experiments": ("backbones", "search", "experiment", "compare", "ensembles"),
    "Deployment": ("sign", "verify", "push", "pull", "serve", "monitor", "label_candidates", "alert_rules", "retrain"),
    "Machines": ("doctor", "device_setup", "worker"),
}
_WITHOUT_PROGRESS = ("verify", "sign", "push", "pull", "serve", "report", "recipes", "check", "doctor", "device_setup", "alert_rules", "ui")
_JSON = Annotated[bool, Parameter(help="Print JSON instead of a table.", show_default=False)]
_DEBUG = Annotated[bool, Parameter(help="Show the traceback of an error.", show_default=False)]
_TOP = Annotated[int, Parameter(help="Slowest layers to list; 0 for all, in the order of execution.")]

_CACHE_SIZE = Annotated[
    str | None,
    Parameter(help="Limit of the image cache, such as 20GB; by default half of the free disk. Images beyond it are decoded as needed."),
]

app = App(
    name="planish",
    help="Makes convolutional networks accurate, small and fast, and proves it by measurement.",
    version=planish.__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative=(), allow_repeating=True),
    exit_on_error=False,
    print_error=False,
    help_on_error=False,
)


def command_groups() -> dict[str, tuple[str, ...]]:
    """Return the names of all commands, as functions of ``planish.commands``, by the groups that ``planish --help`` lists."""
    return dict(_GROUPS)


def _add(function: Callable[..., Any], group: Group) -> None:
    name = function.__name__
    given = arguments(function)
    extra: dict[str, Any] = {"json": _JSON, "debug": _DEBUG} | ({"top": _TOP} if name == "explain" else {})
    if any(one.name == "data" for one in given):
        extra["cache_size"] = _CACHE_SIZE
    if name in ("serve", "sign", "report", "export", "alert_rules", "tile", "synthesize", "ui"):
        del extra["json"]
    defaults = {"top": 12, "cache_size": None}
    own = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(key, False), annotation=kind)
        for key, kind in extra.items()
    ]

    def run(*positional: Any, **options: Any) -> int:
        chosen = usual | signature.bind(*positional, **options).arguments
        return _run(function, chosen, {key: chosen.pop(key) for key in extra})

    parameters = inspect.signature(function).parameters
    usual = {one.name: parameters[one.name].default for one in given if one.default is not one.empty} | {
        one.name: one.default for one in own
    }
    signature = inspect.Signature([*given, *own])
    summary, examples = _documentation(function)
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    run.__name__, run.__doc__ = name, summary
    app.command(run, name=name.replace("_", "-"), group=group, help_epilogue=examples)


def _documentation(function: Callable[..., Any]) -> tuple[str, str]:
    """Return the docstring up to its section Returns, and the command lines of its example."""
    text = inspect.getdoc(function) or ""
    main = re.split(r"\n(?:Returns|Raises|Example):", text)[0].replace("`", "")
    main = re.sub(r"(?<=\S)\n(?: {8,}(?=\S)|(?=\S)(?!Args:))", " ", main)  # joins the lines of each paragraph and argument
    lines = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("$ ")]
    return main, "\n".join(["Examples:", *(f"  {line}" for line in lines)])


def _run(function: Callable[..., Any], given: dict[str, Any], own: dict[str, Any]) -> int:
    name, resumable = function.__name__, "resume" in given
    hint = resume_hint(given.get("out")) if resumable else ""
    passed = {key: value for key, value in given.items() if value is not None}
    if own.get("cache_size") is not None:
        os.environ[CACHE_SIZE] = own["cache_size"]
    with running(debug=own["debug"], resume_hint=hint), invoked(shlex.join(["planish", *sys.argv[1:]])):
        # what a user's network prints must not stand before the JSON document
        with redirect_stdout(sys.stderr) if own.get("json") else nullcontext():
            if name in _WITHOUT_PROGRESS:
                result = _call(function, passed, watch_of(name, None))
            else:
                with progress() as shown:
                    result = _call(function, passed, watch_of(name, shown))
        return print_result(name, result, given | own)


def _call(function: Callable[..., Any], given: dict[str, Any], watch: Callable[[Any], None] | None) -> Any:
    return function(**given) if watch is None else function(**given, watch=watch)


for _place, (_title, _names) in enumerate(_GROUPS.items()):
    _group = Group(_title, sort_key=_place)
    for _name in _names:
        _add(getattr(commands, _name), _group)
app["--help"].group = app["--version"].group = _group
app.register_install_completion_command(name="install-completion", group=_group)


def _usual_form(tokens: list[str]) -> list[str]:
    """Rewrite ``compress photos/ --model net.py:make`` as ``compress net.py:make photos/``, and ``device setup`` as ``device-setup``."""
    if tokens[:2] == ["device", "setup"]:
        return ["device-setup", *tokens[2:]]
    if not tokens or tokens[0] not in ("evaluate", "compress", "export"):
        return tokens
    for place, token in enumerate(tokens[1:], 1):
        name, equals, value = token.partition("=")
        if name == "--model" and (equals or place + 1 < len(tokens)):
            given, after = (value, place + 1) if equals else (tokens[place + 1], place + 2)
            return [tokens[0], given, *tokens[1:place], *tokens[after:]]
    return tokens


def main(tokens: list[str] | None = None) -> NoReturn:
    """Run the command line; the entry point of ``planish``.

    Of several processes that ``accelerate launch`` started, the first one runs it, and the others take part in its trainings.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        _main(tokens)
    from planish.training.parallel import connect  # slow to import

    processes = connect()
    if not processes.first:
        processes.take_part()
        sys.exit(0)
    try:
        _main(tokens)
    except SystemExit as ended:
        if ended.code == 0:
            processes.end()
        raise


def _main(tokens: list[str] | None) -> NoReturn:
    try:
        code = app(_usual_form(sys.argv[1:] if tokens is None else tokens))
    except CycloptsError as error:
        with running(debug=False):
            fail(str(error))
    sys.exit(code if isinstance(code, int) else 0)
