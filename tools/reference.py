"""Write the generated pages of the documentation to ``docs/reference/``: commands, recipes, plans, file formats and errors.

python tools/reference.py    # `make docs` runs it first; the pages are not in the repository
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from cyclopts import Parameter
from docstrings import documented_arguments, in_a_line
from error_catalogue import errors_page
from markdown_text import table

from planish import commands
from planish.cli.app import command_groups
from planish.cli.arguments import arguments

PROJECT = Path(__file__).parent.parent
SCHEMAS = PROJECT / "docs" / "schemas"
RECIPES = PROJECT / "planish" / "training" / "recipes"
FOLDER = PROJECT / "docs" / "reference"

Schema = Mapping[str, Any]


def main(folder: Path = FOLDER) -> int:
    """Write all pages, and return the exit code."""
    pages = {"commands": commands_page, "recipes": recipes_page, "plans": plans_page, "files": files_page, "errors": errors_page}
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in pages.items():
        (folder / f"{name}.md").write_text("\n".join(page()) + "\n", encoding="utf-8")
    return 0


def commands_page() -> Iterator[str]:
    """Every command, by group, from its signature and docstring."""
    yield "# Commands\n"
    yield "Each command is a function of `planish.commands` with the same words: `--max-drop 1` is `max_drop=1`.\n"
    yield "`--help` prints what stands here. With `--json` a command prints JSON instead of a table;"
    yield "`--debug` shows the traceback of an error.\n"
    for group, names in command_groups().items():
        yield f"## {group}\n"
        for name in names:
            yield from _command(name)


def _command(name: str) -> Iterator[str]:
    function = getattr(commands, name)
    text = inspect.getdoc(function) or ""
    about, title = documented_arguments(text), name.replace("_", "-")
    given = arguments(function)
    wanted = [one for one in given if one.kind is one.POSITIONAL_ONLY]
    yield f"### {title}\n"
    yield re.split(r"\n(?:Args|Returns|Raises|Example):", text)[0].strip() + "\n"
    examples = [line.strip()[2:] for line in text.splitlines() if line.strip().startswith("$ ")]
    yield from ("```sh", *examples, "```\n")
    yield f"`planish {' '.join([title, *(_positional(one) for one in wanted), '[OPTIONS]'])}`\n"
    yield from table(
        ("option", "default", "description"),
        ((_option(one), _default(one), _choices(one) + in_a_line(about.get(one.name, ""))) for one in given),
    )
    returned = re.search(r"^Returns:\n((?:[ \t]+.*\n?)+)", text, re.MULTILINE)
    if returned:
        yield f"In Python: `planish.commands.{name}` returns {_lower(in_a_line(returned.group(1)))}\n"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _positional(parameter: inspect.Parameter) -> str:
    name = parameter.name.upper().replace("_", "-")
    return name if parameter.default is parameter.empty else f"[{name}]"


def _option(parameter: inspect.Parameter) -> str:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        return f"`{parameter.name.upper().replace('_', '-')}`"
    given = [extra for extra in getattr(parameter.annotation, "__metadata__", ()) if isinstance(extra, Parameter) and extra.name]
    return f"`{given[0].name[0] if given else '--' + parameter.name.replace('_', '-')}`"


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is parameter.empty:
        return "required"
    if value is None or value is False or value == ():
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, list | tuple) else value}`"


def _choices(parameter: inspect.Parameter) -> str:
    for kind in _parts(parameter.annotation):
        if get_origin(kind) is Literal:
            return "One of " + ", ".join(f"`{value}`" for value in get_args(kind)) + ". "
    return ""


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for part in get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]:
        if get_origin(annotation) is not Literal:
            yield from _parts(part)


def recipes_page() -> Iterator[str]:
    """Every recipe of the package, as its file stands, and the keys that a recipe can have."""
    yield "# Recipes\n"
    yield "A recipe says how a network is trained. `planish train --recipe NAME` uses one of these or a YAML file of your own, `--set`"
    yield "changes a value, and `planish recipes NAME > mine.yaml` writes one to start from.\n"
    for file in sorted(RECIPES.glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        yield f"## {file.stem}\n\n{yaml.safe_load(text)['description']}\n"
        rest = re.sub(r"^description:.*\n", "", text)
        yield f"```yaml\n{rest.strip()}\n```\n"
    schema = _schema("recipe")
    yield "## Keys\n"
    yield f"JSON Schema for editors: [`recipe.schema.json`]({_link('recipe')}).\n"
    yield from _keys(schema)
    for name in ("FitSettings", "LossSettings"):
        if name in schema["$defs"]:
            yield from _definition(name, schema["$defs"][name])


def plans_page() -> Iterator[str]:
    """Every technique that a plan can name, with its hyper-parameters."""
    yield "# Plans\n"
    yield "A plan is a list of techniques in YAML or JSON, in the order in which they are applied; `planish compress --plan FILE`"
    yield "carries it out. [Techniques](techniques.md) is the overview.\n"
    yield "```yaml\n- {name: channel_pruning, pruning_ratio: 0.5}\n- {name: distill, epochs: 5}\n- {name: to_onnx}\n- {name: int8}\n```\n"
    yield f"JSON Schema for editors: [`plan.schema.json`]({_link('plan')}).\n"
    for step in _schema("plan")["items"]["oneOf"]:
        keys = {key: value for key, value in step["properties"].items() if key != "name"}
        yield f"## {step['properties']['name']['const']}\n\n{in_a_line(step.get('description', ''))}\n"
        if keys:
            yield from _keys({"properties": keys, "required": step.get("required", ())})


def files_page() -> Iterator[str]:
    """Every file format, with its keys."""
    yield "# File formats\n"
    yield "Files are JSON or YAML and refuse keys that they do not have. Each format has a JSON Schema that is generated from the types"
    yield "that read and write it. The formats of [plans](plans.md) and [recipes](recipes.md) have pages of their own.\n"
    for file in sorted(SCHEMAS.glob("*.schema.json")):
        name = file.name.partition(".")[0]
        if name not in ("plan", "recipe"):
            schema = _schema(name)
            yield f"## {name}\n\n{in_a_line(schema['description'])} [`{file.name}`]({_link(name)})\n"
            yield from _keys(schema)


def _schema(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return found


def _link(name: str) -> str:
    return f"../schemas/{name}.schema.json"


def _definition(name: str, schema: Schema) -> Iterable[str]:
    return (f"### {name}\n\n{in_a_line(schema.get('description', ''))}\n", *_keys(schema))


def _keys(schema: Schema) -> Iterable[str]:
    required = schema.get("required", ())
    rows = []
    for key, value in schema["properties"].items():
        default = (
            "required" if key in required else f"`{json.dumps(value['default'])}`" if value.get("default") not in (None, "", []) else ""
        )
        rows.append((f"`{key}`", _kind(value), default, in_a_line(value.get("description", ""))))
    return table(("key", "type", "default", "description"), rows)


def _kind(value: Schema) -> str:
    """Name the type of a value: ``number``, ``list of text``, ``Measurement``, or its choices."""
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one).strip(chr(34))}`" for one in value["enum"])
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "$ref" in value:
        return str(value["$ref"]).rpartition("/")[2]
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(one) for one in value["anyOf"]))
    kind = value.get("type", "")
    if kind == "array":
        items: Sequence[Schema] = value.get("prefixItems", [value["items"]] if "items" in value else [])
        return "list" + (" of " + ", ".join(dict.fromkeys(map(_kind, items))) if items else "")
    inner = value.get("additionalProperties")
    if kind == "object" and isinstance(inner, Mapping):
        return f"map of {_kind(inner)}"
    return {"string": "text", "object": "map", "boolean": "true or false"}.get(kind, kind)


if __name__ == "__main__":
    sys.exit(main())
