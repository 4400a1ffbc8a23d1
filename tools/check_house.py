"""Check the source tree: no import cycles, small folders, no retired words, unique class names, functions with few parameters, and no
docstring of a parameter that does not exist.

python tools/check_house.py [ROOT]     # prints one line per problem, and exits with 1 if there are any
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from docstrings import documented_arguments
from retired_words import retired_words

MOST_MODULES = 15
MOST_PARAMETERS = 8  # except in planish/commands, whose functions have one parameter per command-line option
_NOT_COUNTED = ("__init__", "__main__")

Graph = dict[str, set[str]]


def main(root: Path) -> int:
    """Print all problems of a source tree, and return the exit code."""
    package = root / "planish"
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sorted(package.rglob("*.py"))}
    problems = [*cycles(imports(package, trees)), *crowded_folders(package), *retired_words(root), *repeated_classes(root, trees)]
    problems += [*long_signatures(root, trees), *unknown_arguments(root, trees)]
    print("\n".join(problems) or "no cycles, no crowded folders, no retired words, no repeated class names, no wrong signatures")
    return int(bool(problems))


def module_name(package: Path, file: Path) -> str:
    """Return the module name of a file, such as ``planish.data.splits``; for an ``__init__.py``, the name of the package."""
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path, trees: Mapping[Path, ast.Module]) -> Graph:
    """Return the modules of the package that each of its modules imports, including within functions, but not under ``TYPE_CHECKING``.

    ``from planish.data import splits`` counts as an import of the module ``planish.data.splits``, ``from planish.data import ImageData``
    as one of ``planish.data``.
    """
    names = {module_name(package, file): file for file in trees}
    graph: Graph = {}
    for name, file in names.items():
        home = name if file.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {target for node in _running(trees[file]) for target in _targets(node, home, names)} - {name}
    return graph


def _running(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running(other)
        else:
            yield child
            yield from _running(child)


def _targets(node: ast.AST, home: str, names: Mapping[str, Path]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in names)
    elif isinstance(node, ast.ImportFrom):
        parts = home.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
        origin = ".".join(filter(None, (base, node.module)))
        for alias in node.names:
            child = f"{origin}.{alias.name}"
            if child in names:
                yield child
            elif origin in names:
                yield origin


def cycles(graph: Graph) -> list[str]:
    """Return one line per group of modules that import each other in a cycle, with a shortest cycle of the group."""
    problems, seen = [], set[str]()
    for start in sorted(graph):
        if start in seen:
            continue
        circle = _circle(graph, start)
        if circle:
            seen.update(circle)
            problems.append(f"cycle of modules: {' -> '.join([*circle, start])}")
    return problems


def _circle(graph: Graph, start: str) -> list[str]:
    """Return the shortest import cycle that contains a module; empty if there is none."""
    before: dict[str, str] = {}
    front = [start]
    while front:
        following = []
        for module in front:
            for target in sorted(graph.get(module, ())):
                if target == start:
                    way = [module]
                    while way[-1] != start:
                        way.append(before[way[-1]])
                    return way[::-1]
                if target not in before:
                    before[target] = module
                    following.append(target)
        front = following
    return []


def crowded_folders(package: Path) -> list[str]:
    """Return one line per folder with too many modules."""
    counts: dict[Path, int] = defaultdict(int)
    for file in package.rglob("*.py"):
        counts[file.parent] += file.stem not in _NOT_COUNTED
    return [
        f"{folder.relative_to(package.parent)} has {count} modules, at most {MOST_MODULES} are allowed: make subfolders"
        for folder, count in sorted(counts.items())
        if count > MOST_MODULES
    ]


def repeated_classes(root: Path, trees: Mapping[Path, ast.Module]) -> list[str]:
    """Return one line per name that several public classes of the package share."""
    places: dict[str, list[str]] = defaultdict(list)
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(f"{file.relative_to(root)}:{node.lineno}")
    return [f"several classes are called {name}: {', '.join(where)}" for name, where in sorted(places.items()) if len(where) > 1]


def long_signatures(root: Path, trees: Mapping[Path, ast.Module]) -> list[str]:
    """Return one line per function with too many parameters."""
    return [
        f"{where} has {len(given)} parameters, at most {MOST_PARAMETERS} are allowed: make settings of them"
        for where, _, given in _functions(root, trees)
        if len(given) > MOST_PARAMETERS and not where.startswith("planish/commands/")
    ]


def unknown_arguments(root: Path, trees: Mapping[Path, ast.Module]) -> list[str]:
    """Return one line per argument that a docstring describes but the function does not have."""
    problems = []
    for where, node, given in _functions(root, trees):
        described = documented_arguments(ast.get_docstring(node) or "")
        problems += [f"{where} has no parameter {name!r}, which its docstring describes" for name in described if name not in given]
    return problems


def _functions(root: Path, trees: Mapping[Path, ast.Module]) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef, list[str]]]:
    """Yield location, node and parameter names of each function."""
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = node.args
                given = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
                names = [each.arg for each in given if each is not None and each.arg not in ("self", "cls")]
                yield f"{file.relative_to(root)}:{node.lineno}: {node.name}", node, names


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent))
