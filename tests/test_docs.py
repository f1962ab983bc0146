"""The README and the docs: their code runs, their files exist, and their numbers are those of the result files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "CONTRIBUTING.md",
    "export/cpp/README.md",
    *(f"docs/{p.name}" for p in sorted((REPOSITORY / "docs").glob("*.md"))),
]
CODE = [
    pytest.param(block, id=f"{page}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (REPOSITORY / page).read_text(), re.DOTALL))
]


@pytest.mark.slow
@pytest.mark.parametrize("block", CODE)
def test_the_python_in_the_docs_runs_in_a_fresh_process(block, tmp_path):
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_in_the_docs_leads_to_a_file(page):
    text = (REPOSITORY / page).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (REPOSITORY / page).parent.joinpath(target).exists(), target


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_the_docs_name_exists(page):
    text = (REPOSITORY / page).read_text()
    for name in re.findall(
        r"`((?:albert_fast|export|benchmarks|tests|tools|docs)/[\w./-]*\w\.(?:py|toml|md|sh|json|tsv))`", text
    ):
        assert (REPOSITORY / name).exists(), name


def test_the_commands_of_the_readme_exist():
    from albert_fast.cli import COMMANDS

    text = (REPOSITORY / "README.md").read_text() + (REPOSITORY / "docs/usage.md").read_text()
    assert set(re.findall(r"^    albert-fast (\w+)", text, re.MULTILINE)) <= set(COMMANDS)
    makefile = (REPOSITORY / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_public_names_are_all_there():
    import albert_fast

    for name in albert_fast.__all__:
        assert getattr(albert_fast, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'AlbertForEverything'"):
        _ = albert_fast.AlbertForEverything


def test_the_tables_in_the_docs_are_what_the_result_files_say():
    done = subprocess.run(
        [sys.executable, "benchmarks/report.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_engine_benchmark_measured_every_row_that_runs_on_a_cpu():
    import json

    from albert_fast.engine import FORMATS
    from albert_fast.precision import PRECISIONS

    document = json.loads((REPOSITORY / "benchmarks/results/engines.json").read_text())
    on_cpu = {name for name, row in FORMATS.items() if "cpu" in row.devices}
    assert on_cpu <= {row["engine"] for row in document["rows"]}
    assert all(row["max_abs_difference"] <= PRECISIONS[row["precision"]].budget.max_abs for row in document["rows"])
