"""The house keeps its promises: one environment however it is made, targets that exist, sources fit to be published."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import nbformat
import papermill
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from report.notebooks import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
LIBRARY = os.environ | {"PYTHONPATH": str(ROOT / "lib")}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)


def pins() -> dict:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines), "constraints.txt holds exact versions only"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def conda_pip_lines() -> list[str]:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return next(item["pip"] for item in dependencies if isinstance(item, dict))


# --- one environment -------------------------------------------------------------------------------------------------


def test_conda_installs_what_make_installs():
    """environment.yml names nothing of its own but where torch for CPUs lies: the project with the Makefile's extras,
    under the same constraints."""
    extras = re.search(r"-e '(\.\[[\w,]+\])'\n\ttouch", MAKEFILE).group(1)
    index, *lines = conda_pip_lines()
    assert lines == ["-c constraints.txt", f"-e {extras}"] and index.startswith("--extra-index-url https://")
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [item for item in dependencies if isinstance(item, str)] == ["python=3.11", "pip"]
    for workflow in ("test", "book"):
        text = (ROOT / ".github" / "workflows" / f"{workflow}.yml").read_text()
        assert set(re.findall(r'python-version: "(.+)"', text)) == {"3.11"}


def test_pip_accepts_condas_lines_and_the_pins_fit_together(tmp_path):
    """pip reads the lines as conda hands them over, a requirements file, with no index to ask: what is installed meets
    every requirement of every extra, and the constraints allow all of it."""
    lines = "\n".join(conda_pip_lines()).replace("-c ", f"-c {ROOT}/").replace("-e .", f"-e {ROOT}")
    (tmp_path / "lines.txt").write_text(lines)
    offline = ["--isolated", "install", "--dry-run", "--no-index", "--no-build-isolation", "-q"]
    done = run("-m", "pip", *offline, "-r", tmp_path / "lines.txt", "--report", tmp_path / "report.json")
    assert done.returncode == 0, done.stderr
    installs = json.loads((tmp_path / "report.json").read_text())["install"]
    assert [item["metadata"]["name"] for item in installs] == ["densereward"], "something else would be installed"


def test_every_package_that_the_project_pulls_in_is_pinned_at_the_version_tested_here():
    """A package without a pin changes under a reader's feet. (CUDA builds of torch name their own packages exactly.)"""
    pinned, seen = pins(), set()
    extras = PROJECT["project"]["optional-dependencies"]
    todo = [Requirement(line) for line in PROJECT["project"]["dependencies"] + sum(extras.values(), [])]
    while todo:
        need = todo.pop()
        name = canonicalize_name(need.name)
        if (name, frozenset(need.extras)) in seen or name.startswith(("nvidia-", "cuda-", "triton")):
            continue
        seen.add((name, frozenset(need.extras)))
        assert name in pinned, f"{name} has no pin in constraints.txt"
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            assert name in ("deepspeed", "gguf", "lm-eval"), f"{name} is not installed"  # nor are they by `make`
            continue
        version = found.version.split("+")[0]
        assert version == pinned[name], f"{name}: tested here {version}, pinned {pinned[name]}"
        for line in found.requires or []:
            child = Requirement(line)
            wanted = [{"extra": extra} for extra in ("", *need.extras)]
            if not child.marker or any(child.marker.evaluate(env) for env in wanted):
                todo.append(child)


def test_every_pin_can_be_installed_with_the_oldest_python_that_is_promised():
    """Debian's Python is 3.11.2: a package that asks for 3.11.5 ends the first command of the README in riddles."""
    oldest = SpecifierSet(PROJECT["project"]["requires-python"])
    oldest = next(f"{item.version}.0" for item in oldest if item.operator == ">=")
    pinned = pins()
    for found in metadata.distributions():
        if pinned.get(canonicalize_name(found.name)) == found.version.split("+")[0]:
            asked = found.metadata["Requires-Python"] or ""
            assert SpecifierSet(asked).contains(oldest), f"{found.name} {found.version} asks for Python {asked}"


# --- commands --------------------------------------------------------------------------------------------------------


def test_make_explains_its_targets_and_each_is_a_line_to_type():
    targets = {"book", "test", "test-dist", "study", "serve", "clean"}
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True).stdout
    assert targets <= {line.split()[0] for line in shown.splitlines() if len(line.split()) > 3}, shown
    assert not re.search(r"\\\n", MAKEFILE), "a recipe that spans lines cannot be typed"


def test_the_modules_that_make_runs_exist():
    for module in set(re.findall(r"-m ((?:densereward|testbed|study|report)[\w.]*)", MAKEFILE)):
        assert importlib.util.find_spec(module), f"the Makefile runs {module}, which is not in lib/"


def test_make_records_makes_every_record_of_the_testbed_with_all_of_its_seeds():
    """In $(or ...) make takes the commas of a list of seeds for its own, and only the first seed would run."""
    command = ["make", "-n", "records", "--no-print-directory", "-o", ".venv/.installed"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    measured = ("tax_records", "wage_records", "fidelity_records", "oracle_units", "density_map")
    for made in (*measured, "map-controls/runs.jsonl"):
        assert made in shown, f"make records leaves {made} out"
    seeds = re.findall(r"--profile (\w+) .*--seeds ([\d,]+)", shown)
    assert ("brief", "0,1,2,3,4,5,6,7,8,9") in seeds and ("brief", "0,1,2") in seeds, seeds


def test_ci_runs_the_tests_and_the_smoke_book():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script
    assert re.search(r"^make test$.*^make test-dist$.*^PROFILE=smoke make book$", script, re.M | re.S)


# --- sources ---------------------------------------------------------------------------------------------------------

MADE = set(".git runs _build __pycache__ .pytest_cache .ruff_cache .hypothesis .ipynb_checkpoints mathjax".split())
TEXT = {""} | set(".py .md .ipynb .toml .yml .yaml .txt .csv .json .jsonl .cff .css .bib .svg".split())
# spelt with a gap, so that this file does not find itself
UNFIT = [word.replace(" ", "", 1) for word in ("/ work/", "/ opt/", "/ root/", "/t mp/w", "../ shared", "i ssues show")]


def committed_files():
    def walk(folder):
        for path in sorted(folder.iterdir()):
            if path.name in MADE or path.name.startswith(".venv") or path.suffix == ".egg-info":
                continue
            if path.is_dir():
                yield from walk(path)
            else:
                yield path

    return walk(ROOT)


def test_no_machine_path_or_in_house_word_is_published():
    found = []
    for path in committed_files():
        if path.suffix in TEXT:
            text = path.read_text(errors="replace")
            found += [f"{path.relative_to(ROOT)}: {word}" for word in UNFIT if word in text]
    assert not found, "\n".join(found)


def test_ruff_finds_nothing():
    done = run("-m", "ruff", "check", "--no-cache", "lib", "tests", "notebooks")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_package_lists_its_rooms_and_the_readme_the_packages():
    """How a stranger finds a file: one left out is lost, an invented one misleads, a tree of 120 lines is not read."""
    (tree,) = (
        block for block in re.findall(r"```\w*\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "lib/" in block
    )
    assert len(tree.splitlines()) < 40
    for folder in {path.parent for path in (ROOT / "lib").rglob("*.py")}:
        assert f"{folder.name}/" in tree, f"README.md does not say what {folder.name} is for"
        told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
        modules = {path.name for path in folder.glob("*.py")} - {"__init__.py"}
        assert set(re.findall(r"[\w-]+\.py\b", told)) == modules, (
            f"{folder.name}/__init__.py names other modules than it has"
        )


def test_each_file_of_the_library_names_the_page_that_explains_it():
    for path in (ROOT / "lib" / "densereward").glob("*/*.py"):
        if path.name != "__init__.py":
            page = re.search(r"^Book: (\w+\.md)$", ast.get_docstring(ast.parse(path.read_text())), re.M)
            assert page and (ROOT / "book" / page[1]).exists(), f"{path.name} names no page of the book"


def test_a_link_to_code_is_called_what_its_file_is_called():
    """A file that was renamed leaves its old name on the page, with a link that works."""
    for page in [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]:
        for said, path in re.findall(r"\[(\w+\.py)\]\([^)]*/blob/main/([\w./-]+)", page.read_text()):
            assert (ROOT / path).exists() and Path(path).name == said, f"{page.name} calls {path} {said}"


def test_imports_run_one_way():
    """The contracts in pyproject.toml: the library knows no study, and inside it what is below knows nothing above."""
    lint = Path(sys.executable).parent / "lint-imports"
    told = subprocess.run([lint], cwd=ROOT, env=LIBRARY, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout


def test_the_library_works_without_study_or_testbed(tmp_path):
    """A stranger's project has the library alone: rewards per token in PPO, per segment in GRPO, a mask in DPO."""
    shutil.copytree(ROOT / "lib" / "densereward", tmp_path / "densereward")
    script, env = ROOT / "examples" / "dense_rewards_on_trl.py", os.environ | {"PYTHONPATH": str(tmp_path)}
    told = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert told.returncode == 0, told.stderr[-2000:]
    for name in ("PPO", "GRPO"):
        before, after = map(float, re.search(rf"{name}: blue is said ([\d.]+) .* ([\d.]+) times", told.stdout).groups())
        assert before < 1 < after, "the reward does not reach the policy"
    assert "of 64 tokens of chosen answers 16" in told.stdout


def test_figures_are_drawn_without_torch(tmp_path):
    """A machine that only redraws figures from records has no torch, and no second to wait for it. The lines that the
    book gives for it draw one."""
    drawing = {path.stem for path in (ROOT / "lib" / "report").glob("*.py")} - {"__init__", "parameters"}
    script = f"import sys; [__import__('report.' + name) for name in {sorted(drawing)}]; "
    page = (ROOT / "book" / "reproducibility.md").read_text()
    script += "\n" + re.search(r"```python\n(.*?)```", page, re.S)[1]
    script += "print({'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script], env=LIBRARY, capture_output=True, text=True, cwd=tmp_path)
    assert told.stdout == "set()\n", told.stdout + told.stderr
    assert "<svg" in (tmp_path / "final_returns.svg").read_text()


# --- notebooks -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not NOTEBOOKS, reason="notebooks/ is empty")
def test_notebooks_are_committed_without_outputs():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            clean = cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)
            assert clean, f"{path.name} has outputs: run python -m report.notebooks strip"


@pytest.mark.skipif(not NOTEBOOKS, reason="notebooks/ is empty")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_papermill_help_explains_every_parameter(path):
    parameters = papermill.inspect_notebook(str(path))
    assert "profile" in parameters, f"{path.name}: the book sets the parameter 'profile'"
    for name, found in parameters.items():
        assert found["inferred_type_name"] not in ("None", None, ""), f"{path.name}: {name} has no type"
        assert len(found["help"]) > 5, f"{path.name}: {name} has no comment"
