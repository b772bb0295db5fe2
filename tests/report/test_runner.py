"""The runner of notebooks: order, parameters, progress, failures."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from report.notebooks import run_all


def write(folder: Path, name: str, *code: str) -> Path:
    cells = [new_code_cell('profile: str = "none"  # size of the run', metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(line) for line in code]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def test_notebooks_run_in_order_with_the_profile_and_leave_the_sources_alone(tmp_path, capsys):
    late = write(tmp_path, "late", 'print(open("early.txt").read())')
    early = write(tmp_path, "early", 'open("early.txt", "w").write(f"made at {profile}")')
    before = late.read_bytes()
    run_all([late, early], tmp_path / "out", {"profile": "smoke"}, tmp_path, jobs=2, after={"late": {"early"}})
    said = capsys.readouterr().out
    assert "made at smoke" in (tmp_path / "out" / "late.ipynb").read_text()
    assert late.read_bytes() == before
    assert "papermill early.ipynb out/early.ipynb -k python3 -p profile smoke" in said
    assert re.search(r"late +cell 3/3", said), "no progress was shown"


def test_a_failing_cell_is_shown_its_outputs_are_kept_and_nothing_more_starts(tmp_path, capsys):
    broken = write(tmp_path, "broken", 'print("so far")', 'raise ValueError("unknown profile")')
    after = write(tmp_path, "after", "1")
    with pytest.raises(SystemExit) as stop:
        run_all([broken, after], tmp_path / "out", {"profile": "x"}, tmp_path, jobs=2, after={"after": {"broken"}})
    said = capsys.readouterr().out
    assert stop.value.code == 1
    assert "ValueError: unknown profile" in said and 'raise ValueError("unknown profile")' in said
    assert "so far" in (tmp_path / "out" / "broken.ipynb").read_text()
    assert not (tmp_path / "out" / "after.ipynb").exists()
