"""Parsing of short YAML documents with size limits, by the rules of YAML 1.2.

PyYAML follows version 1.1, in which ``off``, ``no``, ``on`` and ``yes`` are booleans, 010 is 8, 1e-3 is a string and 1:30 is 90.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MOST_YAML_BYTES = 1_000_000
_DEEPEST = 50
_MOST_TOKENS = 200_000  # take a few seconds; the names of 20,000 classes need half of them


class _UniqueKeys(yaml.SafeLoader):
    """A loader that refuses a key that is given twice, as YAML 1.2 does; PyYAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found = super().construct_mapping(node, deep)
        if len(found) < len(node.value):
            keys = [key.value for key, _ in node.value]
            again = next((key for i, (key, _) in enumerate(node.value) if key.value in keys[:i]), node)
            raise ValueError(f"line {again.start_mark.line + 1}: the key {again.value!r:.50} is given twice")
        return found


class _Core(_UniqueKeys):
    """A loader for the core schema of YAML 1.2.2."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 as the base class has it


class _Words(_UniqueKeys):
    """A loader that returns every value as a string, except empty ones and ``~``, which are None."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 as the base class has it


def _integer(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = node.value
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"\.(inf|nan)", r"\1", node.value.lower()))


_NULL = "tag:yaml.org,2002:null"
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Core.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Words.add_implicit_resolver(_NULL, re.compile(r"^(?:~|)$"), ["~", ""])
_Core.add_constructor("tag:yaml.org,2002:int", _integer)
_Core.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str) -> Any:
    """Parse a YAML document. Aliases are refused, since a few lines of them can exhaust the memory.

    Raises:
        ValueError: it is not valid, too long, has aliases or equal keys, or is nested too deeply.

    Example:
        >>> parse_yaml("{mixed_precision: off, flip: true, learning_rate: 1e-3}")
        {'mixed_precision': 'off', 'flip': True, 'learning_rate': 0.001}
    """
    return _parse(text, _Core)


def parse_yaml_words(text: str) -> Any:
    """Parse a YAML document with every value as the string that is written: classes may be named ``no``, ``null``, ``1.10`` or ``010``.

    Example:
        >>> parse_yaml_words("names: [no, yes, 1.10]")
        {'names': ['no', 'yes', '1.10']}
    """
    return _parse(text, _Words)


def _parse(text: str, loader: type[yaml.SafeLoader]) -> Any:
    if len(text) > MOST_YAML_BYTES:
        raise ValueError(f"it has {len(text):,} characters, at most {MOST_YAML_BYTES:,} are read")
    begins = (yaml.FlowSequenceStartToken, yaml.FlowMappingStartToken, yaml.BlockSequenceStartToken, yaml.BlockMappingStartToken)
    ends = (yaml.FlowSequenceEndToken, yaml.FlowMappingEndToken, yaml.BlockEndToken)
    try:
        depth = 0
        for number, token in enumerate(yaml.scan(text)):  # its time is quadratic in the depth
            if number > _MOST_TOKENS:
                raise ValueError(f"it has more than {_MOST_TOKENS:,} words and marks")
            depth += isinstance(token, begins) - isinstance(token, ends)
            if depth > _DEEPEST:
                raise ValueError(f"it is nested deeper than {_DEEPEST} levels")
            if isinstance(token, yaml.AliasToken):
                raise ValueError("it has aliases (*name), which are not needed here: write them out")
        return loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:  # whose text has several lines
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
        raise ValueError(f"{place}{', '.join(filter(None, (error.context, error.problem)))}") from error
    except (yaml.YAMLError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(_in_one_line(error)) from error


def _in_one_line(error: Exception) -> str:
    """The message of a parser's error, with its line number instead of an excerpt of several lines."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return str(error)
    return f"line {error.problem_mark.line + 1}: {error.problem}"
