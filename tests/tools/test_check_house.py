"""What ``make check`` refuses of the source tree, on small bad trees."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import check_house  # noqa: E402
import retired_words  # noqa: E402


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, {"planish/__init__.py": ""})
    return tmp_path


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(root: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    code = check_house.main(root)
    lines = capsys.readouterr().out.splitlines()
    assert code == int(not lines[0].startswith("no cycles"))
    return lines if code else []


def test_a_tidy_tree_passes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        root,
        {
            "planish/a.py": "import planish.b\n",
            "planish/b.py": "class Sensitivity: ...\n",
            "README.md": "Two rounding errors harms little.",
        },
    )
    assert found(root, capsys) == []


@pytest.mark.parametrize(
    "back", ["import planish.a", "from planish import a", "from planish.a import X", "from . import a", "from .a import X",
             "def f():\n    from planish.a import X", "class C:\n    def f(self):\n        if x:\n            import planish.a as b"],
)  # fmt: skip
def test_modules_that_import_each_other_are_found(root: Path, capsys: pytest.CaptureFixture[str], back: str) -> None:
    write(root, {"planish/a.py": "from planish import middle\nX = 1\n", "planish/middle.py": "import planish.b\n", "planish/b.py": back})
    assert found(root, capsys) == ["cycle of modules: planish.a -> planish.middle -> planish.b -> planish.a"]


def test_a_package_that_is_imported_by_its_own_child_is_a_cycle(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(root, {"planish/room/__init__.py": "from planish.room.one import One\n", "planish/room/one.py": "from planish.room import One\n"})
    assert found(root, capsys) == ["cycle of modules: planish.room -> planish.room.one -> planish.room"]


@pytest.mark.parametrize("condition", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_what_is_imported_for_types_alone_is_no_cycle(root: Path, capsys: pytest.CaptureFixture[str], condition: str) -> None:
    write(
        root,
        {
            "planish/__init__.py": "from planish import a, b\n",
            "planish/a.py": "import planish.b\n",
            "planish/b.py": f"if {condition}:\n    from planish.a import X\nelse:\n    import json\n",
        },
    )
    assert found(root, capsys) == []


def test_imports_outside_of_the_package_are_left_out(root: Path) -> None:
    file = root / "planish" / "a.py"
    trees = {file: ast.parse("import json, planish.nowhere\nfrom numpy import array\n"), root / "planish" / "__init__.py": ast.parse("")}
    assert check_house.imports(root / "planish", trees)["planish.a"] == set()


def test_sixteen_modules_are_too_many_for_a_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        root, {f"planish/room/m{number}.py": "" for number in range(15)} | {"planish/room/__init__.py": "", "planish/room/__main__.py": ""}
    )
    assert found(root, capsys) == []
    write(root, {"planish/room/one_more.py": ""})
    assert found(root, capsys) == ["planish/room has 16 modules, at most 15 are allowed: make subfolders"]


# one example each of what the patterns are for, in the order of the table
EXAMPLES = (
    "thaw = LayerFreezer()", "from x import KeptWeights", "NotedImage()", "x: Taught", "Shipped(plan)", "class Way(Enum): ...", '"glanced"',
    "the levers of accuracy", "quicken(module)", "harm_of_widths()", "what_it_sees(x)", "goal.with_room()", "leave it away",
    "images a call",
    "it knows the classes", "The surest mistakes", "has no meaning here", "What can be had", "What is taken for what", "How sure it may be",
    "What it sees", "places are learned", "boxes as shares", "weighing channels", "training/pace.py", "planish.search.look import look",
    "planish/serving/why.py",
)  # fmt: skip


def test_each_retired_word_has_an_example() -> None:
    assert len(EXAMPLES) == len(retired_words.RETIRED)


@pytest.mark.parametrize("example", EXAMPLES)
def test_retired_words_are_found_wherever_they_stand(root: Path, example: str) -> None:
    files = {"README.md", "docs/decisions/1.md", "planish/a.py", "planish/page.html.jinja", "tests/test_a.yaml"}
    write(root, dict.fromkeys(files, f"first line\n{example}\n"))
    assert {problem.partition(": retired word")[0] for problem in retired_words.retired_words(root)} == {f"{file}:2" for file in files}


def test_words_after_an_escape_are_found(root: Path) -> None:
    write(root, {"planish/a.py": r'"first\nlevers"'})
    assert [problem[:14] for problem in retired_words.retired_words(root)] == ["planish/a.py:1"]


def test_names_of_files_are_read_as_well(root: Path) -> None:
    write(root, {"tests/test_thaw.py": ""})
    assert retired_words.retired_words(root) == ["tests/test_thaw.py: retired word 'thaw'; use: freeze, unfreeze, LayerFreezer"]


@pytest.mark.parametrize("text", ["harmless", "charm", "clever", "Shipped with the wheel", "this way", "Answers are cached", "unharmed"])
def test_words_that_only_look_alike_pass(root: Path, text: str) -> None:
    write(root, {"README.md": text})
    assert retired_words.retired_words(root) == []


def test_history_and_other_peoples_folders_are_left_out(root: Path) -> None:
    left_out = (
        "CHANGELOG.md",
        "benchmarks/results/a.json",
        ".venv/lib/a.py",
        "planish/__pycache__/a.py",
        "build/lib/a.py",
        "runs/a/README.md",
    )
    write(root, dict.fromkeys(left_out, "levers"))
    assert retired_words.retired_words(root) == []


def test_a_name_belongs_to_one_public_class(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inner = "def f():\n    class Trial: ...\nclass _Hidden: ...\n"
    write(root, {"planish/a.py": f"class Trial: ...\n{inner}", "planish/room/b.py": f"\nclass Trial: ...\n{inner}"})
    assert found(root, capsys) == ["several classes are called Trial: planish/a.py:1, planish/room/b.py:2"]


def test_functions_have_few_parameters_but_for_commands(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = f"class _A:\n    def f(self, {', '.join('abcdefgh')}, *, i): ...\ndef g({', '.join('abcdefgh')}): ...\n"
    write(root, {"planish/a.py": many, "planish/commands/b.py": many})
    assert found(root, capsys) == ["planish/a.py:2: f has 9 parameters, at most 8 are allowed: make settings of them"]


def test_docstrings_describe_the_parameters_that_are_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = '"""Text.\n\n    Args:\n        one: is there.\n        two: is not.\n\n    Raises:\n        three: is none.\n    """'
    write(root, {"planish/a.py": f"def f(one, *rest):\n    {text}\n"})
    assert found(root, capsys) == ["planish/a.py:1: f has no parameter 'two', which its docstring describes"]
