"""Runs the notebooks and builds the book; everything that `make book` does after installation.

    python -m report.notebooks execute --profile smoke   papermill on every notebook -> runs/book/smoke/NAME.ipynb
    python -m report.notebooks build --profile smoke     with book/, data/, lib/ -> _build/src -> _build/html
    python -m report.notebooks strip                     remove the outputs of notebooks/, as they are committed

No run writes into notebooks/. The book is built from a copy of the tree in which notebooks/ holds the executed ones, so
that a link between pages reads the same in the sources and in the book.
"""

import base64
import graphlib
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Annotated

import nbformat
import typer
import yaml

from densereward import progress
from report import manifest, show
from study import command_line, profiles

ROOT = Path(__file__).resolve().parents[2]

# A notebook that reads what another leaves in the stage cache waits for it; one not named here waits for nobody.
AFTER = {
    "reward_models": {"segmentation"},
    "segment_ppo": {"reward_models"},
    "comparison": {"segment_ppo"},
    "side_by_side": {"segmentation"},
    "segment_constant": {"normalisers"},
    "variance": {"normalisers"},
    "error_decomposition": {"segmentation"},
    "tlcr": {"segmentation"},
    "labels": {"segmentation"},
    "adaptive_masks": {"normalisers", "segmentation"},
    "process_outcome": {"segmentation"},
}
QUIET = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # tqdm's bars are text where ipywidgets is not installed
}
LOG = re.compile(  # lines of stages, of data of which nothing was left out, of libraries
    r"^(?:stage [\w-]+ \w{12}: (?:reused|built in [\d.]+ s)|data: (?:read (\d+), kept \1|kept 0)"
    r"|\[[\d :,-]+\] \[[A-Z]+\] .*)\n?",
    re.M,
)
NOT_IN_BOOK = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.safetensors", ".ipynb_checkpoints")


def toc_files(toc: Path) -> list[str]:
    """Pages that a Jupyter Book table of contents names, in reading order, without suffix."""

    def files(node):
        found = [node[key] for key in ("root", "file") if key in node]
        for key in ("parts", "chapters", "sections"):
            for child in node.get(key, []):
                found += files(child)
        return found

    return files(yaml.safe_load(toc.read_text()))


def run_notebook(source: Path, target: Path, parameters: dict, cwd: Path, say=print) -> None:
    """Executes one notebook with papermill in a process of its own, saying each finished cell, and how far a long one
    is (`progress`), of which nothing stays in the output notebook.

    That is written as it goes and kept when a cell fails; RuntimeError then shows cell and traceback.
    """
    command = ["papermill", os.path.relpath(source, cwd), os.path.relpath(target, cwd), "-k", "python3"]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    say("$ " + " ".join(command))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    made = manifest.stamp(source, cwd)
    process = subprocess.Popen(
        [sys.executable, "-m", *command, "--progress-bar", "--log-output"],
        cwd=cwd,
        env=QUIET | dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    log, last = "", [None, None]
    while chunk := process.stderr.read1(65536):  # papermill's progress bar: Executing:  33%|###   | 3/9 [00:12<00:24]
        log = (log + chunk.decode(errors="replace"))[-8000:]
        cells, lines = re.findall(r"Executing: .*?(\d+/\d+) \[", log), progress.LINE.findall(log)
        for i, found in enumerate(([f"cell {number}" for number in cells], lines)):
            if found and found[-1] != last[i]:
                last[i] = found[-1]
                say(last[i])
    clean(target, made)
    if process.wait() != 0:
        raise RuntimeError(cell_error(target) or log.strip() or f"papermill ended with exit code {process.returncode}")


def clean(path: Path, made: dict) -> None:
    """Takes out of an executed notebook, where there is one, what no page shows: what `progress` drew, `LOG`, the cell
    that papermill writes, folded cells that made nothing. Says in it what it was `made` of."""
    if not path.exists():
        return
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        tags = cell.metadata.setdefault("tags", [])
        streams = [o for o in cell.outputs if o.output_type == "stream"]
        for output in streams:
            output.text = progress.shown(output.text) if output.name == "stderr" else LOG.sub("", output.text)
        dropped = [o for o in streams if not o.text.strip() or f"remove-{o.name}" in tags]
        cell.outputs = [o for o in cell.outputs if o not in dropped]
        idle = "hide-input" in tags and not cell.outputs and "def " not in cell.source
        tags += ["remove-cell"] if idle or "injected-parameters" in tags else []
    notebook.metadata[manifest.STAMP] = made
    nbformat.write(notebook, path)


def cell_error(path: Path) -> str:
    """The first failed cell of an executed notebook with its traceback, as plain text; empty where there is none."""
    if not path.exists():
        return ""
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(output.traceback))
                return f"In [{cell.execution_count}]:\n{cell.source}\n\n{trace or output.ename}"
    return ""


def run_all(sources: list[Path], folder: Path, parameters: dict, cwd: Path, jobs: int = 1, after: dict = AFTER) -> None:
    """Executes notebooks into `folder`, at most `jobs` at a time, each after those that it waits for.

    After a failure, which is printed, nothing new is started; what runs may finish, and SystemExit(1) follows.
    """
    paths = {source.stem: source for source in sources}
    order = graphlib.TopologicalSorter({name: set(after.get(name, ())) & paths.keys() for name in paths})
    order.prepare()
    begin, width, running, failed = time.monotonic(), max(map(len, paths), default=0), {}, []

    def say(name, line):
        print(f"{time.monotonic() - begin:6.0f} s  {name:<{width}}  {line}", flush=True)

    def timed(name):
        start = time.monotonic()
        run_notebook(paths[name], folder / f"{name}.ipynb", parameters, cwd, lambda line: say(name, line))
        say(name, f"done in {time.monotonic() - start:.0f} s")

    with ThreadPoolExecutor(jobs) as pool:
        waiting = []
        while order.is_active() and not (failed and not running):
            waiting += order.get_ready()
            while waiting and len(running) < jobs and not failed:
                name = waiting.pop(0)
                running[pool.submit(timed, name)] = name
            finished = wait(running, timeout=30, return_when=FIRST_COMPLETED).done
            if not finished:
                say("", f"running: {', '.join(running.values())}")
            for future in finished:
                name = running.pop(future)
                order.done(name)
                if error := future.exception():
                    failed.append(name)
                    say(name, f"FAILED; the notebook with its outputs is {folder / name}.ipynb\n\n{error}\n")
    if failed:
        raise SystemExit(1)
    say("", f"{len(paths)} notebooks executed")


def lay_out(root: Path, executed: list[Path], tree: Path) -> None:
    """Copies what the book is made of into `tree`: settings, prose, data, code to quote, the executed notebooks, and
    the picture for links (`show.preview`) out of the one that made it."""
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "notebooks").mkdir(parents=True)
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy2(root / name, tree)
    for name in ("book", "data", "examples", "lib"):
        shutil.copytree(root / name, tree / name, ignore=NOT_IN_BOOK)
    for path in executed:
        shutil.copy2(path, tree / "notebooks")
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get(show.PREVIEW):
                    (tree / "book" / "_static" / "preview.png").write_bytes(base64.b64decode(picture))


def build_book(root: Path, executed: list[Path], destination: Path) -> Path:
    """Builds the book of `root` strictly into destination/_build/html; returns that folder.

    A warning, a broken reference or a page of the table of contents that is missing ends in SystemExit.
    """
    tree, html = destination / "_build" / "src", destination / "_build" / "html"
    lay_out(root, executed, tree)
    for stale in (html, html.with_name(".doctrees")):  # an incremental build is silent about pages it does not read
        shutil.rmtree(stale, ignore_errors=True)
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    options = ["--path-output", str(destination), "-W", "-n", "--keep-going"]
    if subprocess.run([jupyter_book, "build", tree, *options], cwd=root).returncode:
        raise SystemExit("no book was built; executed notebooks stay: python -m report.notebooks build builds alone")
    if missing := [page for page in toc_files(root / "_toc.yml") if not (html / f"{page}.html").is_file()]:
        raise SystemExit(f"pages of _toc.yml that the build left out: {', '.join(missing)}")
    return html


def sources(root: Path) -> list[Path]:
    """The notebooks of a tree: those of the table of contents in its order, then any other."""
    rank = {page: i for i, page in enumerate(toc_files(root / "_toc.yml"))}
    paths = sorted((root / "notebooks").glob("*.ipynb"))
    return sorted(paths, key=lambda path: rank.get(f"notebooks/{path.stem}", len(rank)))


app = command_line.application(help="Runs the notebooks and builds the book.")
Jobs = Annotated[int, typer.Option(help="notebooks at a time", min=1)]


@app.command()
def execute(profile: str = "smoke", jobs: Jobs = 2):
    """Execute every notebook at a profile, outputs to runs/book/PROFILE."""
    with command_line.asking():
        profiles.profile(profile)
    run_all(sources(ROOT), ROOT / "runs" / "book" / profile, {"profile": profile}, ROOT, jobs)


@app.command()
def build(profile: str = "smoke"):
    """Build the HTML book from the notebooks executed at a profile, strictly, into _build/html."""
    with command_line.asking():
        profiles.profile(profile)
        executed = [ROOT / "runs" / "book" / profile / path.name for path in sources(ROOT)]
        if missing := [path.stem for path in executed if not path.exists()]:
            said = f"{len(missing)} notebooks are not executed at profile {profile}, {missing[0]} first"
            raise ValueError(f"{said}; run: make book PROFILE={profile}")
    html = build_book(ROOT, executed, ROOT)
    try:
        manifest.save_json(html / manifest.NAME, manifest.manifest(html, ROOT))
    except ValueError as problem:  # some page is older than what it rests on: good for a look, not for publishing
        print(f"without a manifest: {problem}")
    print(f"{len(toc_files(ROOT / '_toc.yml'))} pages, all there: open {html / 'index.html'}, or run: make serve")


@app.command()
def strip():
    """Remove outputs and execution counts from the notebooks in notebooks/, as they are committed."""
    for path in sources(ROOT):
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)


if __name__ == "__main__":
    app()
