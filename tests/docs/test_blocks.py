"""Every command and block of code in the documentation is valid: commands, options, plans, imports and arguments exist."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import NAMES, PROJECT, blocks, command_lines, inline_code

import planish
from planish.cli.app import app, command_groups
from planish.plan import Plan

COMMANDS = {name.replace("_", "-") for names in command_groups().values() for name in names} | {"install-completion"}
EVERY_TEXT = pytest.mark.parametrize("page", NAMES.values(), ids=NAMES)
_GENERAL = {"--help", "--version"}


def options(command: str) -> set[str]:
    return {name for argument in app[command].assemble_argument_collection() for name in argument.names} | _GENERAL


def require_options(words: list[str], where: str) -> None:
    command = words[1]
    assert command in COMMANDS | _GENERAL, f"{where}: planish has no command {command}"
    if command in COMMANDS:
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert given <= options(command), f"{where}: {command} has no {given - options(command)}"


@EVERY_TEXT
def test_commands_can_be_parsed(page: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for block in blocks(page, "sh", "bash", "console"):
        for words in command_lines(block.text):
            where = f"{page.name}:{block.line}: {' '.join(words)}"
            if words[0] == "planish":
                require_options(words, where)
                if words[1] in COMMANDS:
                    app.parse_args(words[1:], exit_on_error=False, print_error=False)
            elif words[0] == "make":
                assert words[1] in targets, where


@EVERY_TEXT
def test_commands_within_text_exist(page: Path) -> None:
    every = set().union(*(options(command) for command in COMMANDS - {"install-completion"}))
    for code in inline_code(page):
        words = code.split()
        if words[0] == "planish" and len(words) > 1 and re.fullmatch(r"[a-z-]+", words[1]):
            require_options(words, f"{page.name}: {code}")
        elif words[0].startswith("--") and "docs" in page.parts:
            assert words[0].partition("=")[0] in every, f"{page.name}: no command has {code}"


@EVERY_TEXT
def test_yaml_lists_of_techniques_are_plans(page: Path) -> None:
    for block in blocks(page, "yaml", "yml"):
        if isinstance(steps := yaml.safe_load(block.text), list):
            assert len(Plan.from_dicts(steps).steps) == len(steps)


@EVERY_TEXT
def test_entry_points_are_those_that_are_read(page: Path) -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in (PROJECT / "planish").rglob("*.py"))
    for block in blocks(page, "toml"):
        for group in tomllib.loads(block.text)["project"]["entry-points"]:
            assert f'"{group}"' in code, f"{page.name}: nothing reads the entry point {group}"


@EVERY_TEXT
def test_python_names_what_there_is(page: Path) -> None:
    for block in blocks(page, "python", "py"):
        tree = ast.parse(block.text, f"{page.name}:{block.line}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("planish"):
                for alias in node.names:
                    assert exists(f"{node.module}.{alias.name}"), f"{page.name}:{block.line}: {node.module} has no {alias.name}"
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("planish."):
                function = getattr(planish, ast.unparse(node.func).removeprefix("planish."))
                inspect.signature(function).bind(*node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords})


def exists(name: str) -> Any:
    module, _, member = name.rpartition(".")
    return hasattr(importlib.import_module(module), member) or importlib.util.find_spec(name)
