"""An option exists once, in the signature and docstring of its command: the command line and type checkers take it from there."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import pydantic  # noqa: F401  cyclopts checks defaults with it once it is imported
import pytest
from cli_runner import invoke
from mypy import api as mypy

from planish import commands

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from docstrings import documented_arguments

COMMANDS = [name for name in commands.__all__ if name.islower()]
IN_PYTHON_ONLY = {"watch"}
RENAMED = {
    "candidates": "candidate", "changes": "set", "train_mode": "train", "students": "student", "settings": "setting",
    "cors_origins": "cors-origin",
}  # fmt: skip


def squeezed(text: str) -> str:
    return re.sub(r"[\s│]+", "", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_signature_and_docstring(name: str) -> None:
    function = getattr(commands, name)
    parameters, described = inspect.signature(function).parameters, documented_arguments(inspect.getdoc(function) or "")
    assert list(described) == list(parameters), "each argument is documented, in the order of the signature"
    shown = invoke([name.replace("_", "-"), "--help"]).stdout
    assert f"planish {name.replace('_', '-')}" in shown.partition("Examples:")[2]
    for key, parameter in parameters.items():
        if key in IN_PYTHON_ONLY:
            continue
        positional = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        option = key.upper().replace("_", "-") if positional else f"--{RENAMED.get(key, key).replace('_', '-')}"
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", shown), option
        assert squeezed(described[key].replace("`", "")) in squeezed(shown), key
        default = parameter.default
        if isinstance(default, (str, float, int)) and not isinstance(default, bool) and default != "":
            assert f"[default:{default}]" in squeezed(shown), key


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_hidden_behind_others(name: str) -> None:
    for parameter in inspect.signature(getattr(commands, name)).parameters.values():
        assert parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        assert parameter.annotation not in (inspect.Parameter.empty, "Any"), parameter


def test_choices_are_those_of_the_type() -> None:
    from planish.commands.options import Layout

    assert get_origin(Layout) is Literal
    refused = invoke(["data", "photos", "--layout", "folders"])
    assert refused.exit_code == 2
    assert all(f'"{choice}"' in refused.stderr for choice in get_args(Layout))


def test_help_imports_neither_pytorch_nor_numpy() -> None:
    program = (
        "import sys\nfrom planish.cli import main\ntry:\n    main(['optimize', '--help'])\nexcept SystemExit:\n"
        "    found = {'torch', 'numpy', 'onnxruntime', 'scipy', 'PIL'} & set(sys.modules)\n    print(found, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "set()"
    done = subprocess.run(
        [sys.executable, "-c", "import sys, planish; print(len([m for m in sys.modules if m.startswith('planish')]))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert int(done.stdout) == 1, "importing the package imports nothing else of it"


RIGHT = """
import planish
from planish import commands

result = planish.optimize("photos", model="resnet18", max_drop=1.0, max_latency="5ms", budget="10m", threads=2)
print(result.verdict)
trained = planish.train("photos", changes=["norm=group"], epochs=3)
print(trained.metrics["accuracy"].value)
commands.export("model", "photos", to="onnx", int8=True)
commands.experiment("photos", vary={"activation": ["relu", "elu"]})
"""


WRONG = {
    'planish.optimize("photos", max_dorp=1.0)': "max_dorp",
    'planish.optimize("photos", max_drop="much")': "incompatible type",
    'planish.train("photos", train_mode="sometimes")': "incompatible type",
    'commands.export("model", "photos", to="pdf")': "incompatible type",
    'commands.data("photos", laoyut="coco")': "laoyut",
    "result.verdikt": "verdikt",
}


def test_type_checkers_read_a_users_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RIGHT + "\n".join(WRONG))
    config = Path(__file__).parents[2] / "pyproject.toml"
    printed, _, _ = mypy.run(["--strict", "--config-file", str(config), "--follow-imports=silent", str(script)])
    first = RIGHT.count("\n") + 1
    errors = dict(re.findall(r"script\.py:(\d+): error: (.*)", printed))
    assert sorted(map(int, errors)) == list(range(first, first + len(WRONG))), printed
    for line, words in zip(errors, WRONG.values(), strict=True):
        assert words in errors[line]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_that_are_left_out_have_the_defaults_of_the_function(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ``few_shot`` the numbers of images, ``(1, 5, 10)``, not the text that its help shows."""
    from planish.cli import app

    function, called = getattr(commands, name), []
    monkeypatch.setattr(app, "_run", lambda _, given, own: called.append(given) or 0)
    parameters = inspect.signature(function).parameters.values()
    needed = [one for one in parameters if one.default is one.empty]
    written = [text for one in needed if one.kind is one.POSITIONAL_OR_KEYWORD for text in ["x"]]
    for one in needed:
        if one.kind is one.KEYWORD_ONLY:
            written += [f"--{one.name.replace('_', '-')}", {"int": "64", "Format": "onnx"}.get(str(one.annotation), "x")]
    assert invoke([name.replace("_", "-"), *written]).exit_code == 0
    for one in parameters:
        if one not in needed and one.name not in IN_PYTHON_ONLY:
            assert called[0][one.name] == one.default, one.name


OTHER_PROGRAMS = {
    "--data-binary",
    "--inputs-as-nchw",
    "--help",
    "--version",
    "--only-binary",
    "--dest",
    "--platform",
    "--python-version",
    "--no-index",
    "--find-links",
    "--disable-pip-version-check",
    "--no-input",
}  # fmt: skip  curl, tf2onnx, pip


def test_options_that_messages_and_help_name_exist() -> None:
    known = {
        name
        for command in COMMANDS
        for name in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", invoke([command.replace("_", "-"), "--help"]).output)
    }
    assert {"--max-drop", "--int8", "--shots"} <= known
    unknown = {}
    for file in Path(commands.__file__).parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", node.value)) - known - OTHER_PROGRAMS
                unknown |= {f"{file.name}:{node.lineno}": name for name in named}
    assert not unknown
