"""Who may import whom, as a table, and that the code keeps to it. The floors are explained in docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import albert_fast

PACKAGE = Path(albert_fast.__file__).parent
REPOSITORY = Path(__file__).parents[1]
FACTS = {"errors", "_optional", "files", "config", "batch"}

# room: what it may import when it is imported itself, floor by floor. Nobody leans on a room further down.
MAY_IMPORT: dict[str, set[str]] = {
    # ground: facts and words
    "errors": set(),
    "_optional": {"errors"},
    "files": {"errors"},
    "config": {"errors", "files"},
    "batch": {"errors"},
    # first: arithmetic
    "ops": {"errors"},
    "encoder_op": {"errors", "ops"},
    "attention": {"errors", "ops"},
    "functional": {"attention"},  # for the type of the function that it is handed
    # second: the model
    "outputs": set(),
    "losses": set(),
    "checkpoint": FACTS,
    "pretrained": FACTS | {"attention"},
    "model": FACTS | {"attention", "functional", "outputs", "pretrained"},
    "predictions": FACTS | {"functional", "model"},
    "heads": FACTS | {"functional", "losses", "model", "outputs", "predictions", "pretrained"},
    "live_model": FACTS | {"checkpoint", "heads", "model", "pretrained"},
    "tensorflow": FACTS,  # the same model in another framework: it shares weights and names, not arithmetic
    # third: transforms
    "capture": FACTS | {"heads", "pretrained"},
    "precision": FACTS,
    # fourth: engines, which lower a typed graph and know neither the model nor precision
    "engine": FACTS | {"encoder_op", "ops"},
    # fifth: use
    "tokenizer": FACTS,
    "pipelines": FACTS | {"engine", "heads", "tokenizer"},
    "report": FACTS | {"precision"},  # pages for people, of plain numbers
    "recipe": FACTS
    | {"attention", "capture", "checkpoint", "encoder_op", "engine", "heads", "ops", "pipelines", "precision"}
    | {"report"},
}
# The roof may import every room. On use, inside a function or for a type, a room may also import these:
MAY_IMPORT_ON_USE: dict[str, set[str]] = {
    "config": {"checkpoint"},  # from_pretrained of a hub name
    "pretrained": {"checkpoint"},  # from_pretrained and save_pretrained
    "engine": {"functional", "heads", "model", "pretrained"},  # only live.py and inductor.py, which take a live model
    "tensorflow": {"checkpoint", "heads", "pretrained"},  # weights in and out, and the PyTorch classes' parameter names
    "tokenizer": {"checkpoint"},  # a hub name's folder
    "pipelines": {"live_model"},
    "recipe": {"live_model", "pretrained", "tokenizer"},
}
ROOF = {"__init__", "__main__", "cli"}
# What `pip install albert-fast` brings along. Any other package goes through albert_fast._optional.require.
INSTALLED_WITH_US = {"albert_fast", "numpy", "safetensors", "sentencepiece", "torch"}
# What no table may wake: each is imported by the row that needs it, when it is used.
BACKENDS = ("h5py", "huggingface_hub", "onnx", "onnxruntime", "openvino", "tensorflow", "tensorrt", "tensorrt_rtx")
BACKENDS += ("pyarrow", "tokenizers", "torch._inductor", "torch_tensorrt", "torchao", "transformers", "triton")


@dataclass(frozen=True)
class Import:
    """One import statement: ``on_use`` where it runs inside a function or only for the type checker."""

    file: Path
    line: int
    module: str
    on_use: bool
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.file.relative_to(REPOSITORY)}:{self.line} imports {self.module}"


def imports_of(file: Path) -> Iterator[Import]:
    """Every import in a file, ``from albert_fast import X`` as ``albert_fast.X``."""

    def walk(node: ast.AST, on_use: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, child.lineno, alias.name, on_use) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                module = child.module or ""
                names = [f"{module}.{alias.name}" for alias in child.names] if module == "albert_fast" else [module]
                yield from (Import(file, child.lineno, name, on_use, child.level > 0) for name in names)
            else:
                in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, on_use or in_function or for_types)

    return walk(ast.parse(file.read_text(encoding="utf-8")), on_use=False)


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def room_named_by(module: str) -> str:
    """The room behind a dotted name; a public name of the package stands for the room that defines it."""
    name = module.split(".")[1] if "." in module else "__init__"
    return albert_fast._PUBLIC[name].split(".")[1] if name in albert_fast._PUBLIC else name


FILES = sorted(PACKAGE.rglob("*.py"))
IMPORTS = [found for file in FILES for found in imports_of(file)]
OURS = [found for found in IMPORTS if found.module.split(".")[0] == "albert_fast"]
TABLES = sorted({"attention", "checkpoint", "engine", "heads", "pipelines", "precision"} & {room_of(f) for f in FILES})


def test_every_room_of_the_package_has_a_row_in_the_table() -> None:
    assert {room_of(file) for file in FILES} <= MAY_IMPORT.keys() | ROOF


def test_the_table_itself_has_no_circle() -> None:
    assert list(TopologicalSorter(MAY_IMPORT).static_order())


@pytest.mark.parametrize("room", sorted({room_of(file) for file in FILES} - ROOF))
def test_a_room_imports_only_what_its_row_allows(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    allowed_on_use = allowed | MAY_IMPORT_ON_USE.get(room, set())
    broken = [
        str(found)
        for found in OURS
        if room_of(found.file) == room
        and room_named_by(found.module) not in (allowed_on_use if found.on_use else allowed)
        and found.module != "albert_fast"  # for its version: the package itself imports no room
    ]
    assert broken == []


def test_imports_spell_the_whole_name() -> None:
    assert [str(found) for found in IMPORTS if found.relative] == []


def test_optional_packages_come_only_through_require() -> None:
    outside = [
        str(found)
        for found in IMPORTS
        if not found.relative and found.module.split(".")[0] not in INSTALLED_WITH_US | set(sys.stdlib_module_names)
    ]
    assert outside == []


def test_importing_the_tables_imports_no_backend() -> None:
    program = (
        "import importlib, sys, torch, torch.export\n"
        f"for table in {TABLES}:\n"
        "    before = set(sys.modules)\n"
        "    importlib.import_module('albert_fast.' + table)\n"
        "    new = set(sys.modules) - before\n"
        f"    woken = sorted(m for m in new if (m + '.').startswith({tuple(name + '.' for name in BACKENDS)}))\n"
        "    assert not woken, f'albert_fast.{table} wakes {woken[:20]}'"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_no_file_is_longer_than_350_lines() -> None:
    sources = [*FILES, *(REPOSITORY / "tests").rglob("*.py"), *(PACKAGE / "csrc").iterdir()]
    lengths = {
        str(file.relative_to(REPOSITORY)): len(file.read_text(encoding="utf-8").splitlines()) for file in sources
    }
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_export_holds_recipes_and_no_importable_code() -> None:
    assert sorted((REPOSITORY / "export").rglob("*.py")) == []
