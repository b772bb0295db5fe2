"""What every page of the book was made of, and a check of it, which runs nothing.

    python -m report.manifest write           _build/html -> _build/html/manifest.json
    python -m report.manifest check FOLDER    those pages against their manifest, and against this checkout

An executed notebook, which the book keeps beside its page, carries a stamp: commit and sha256 of its source, code and
data before its first cell ran. The check proves that no file of the book was changed, added or lost, that the cells of
`notebooks/` ran, with this checkout's code, data and settings, and that all that they made is on the page.
"""

import hashlib
from pathlib import Path
from typing import Annotated

import nbformat
import typer

from study import command_line
from study.cache import load_json, save_json
from study.records import ROOT, git_state

NAME, STAMP = "manifest.json", "made_of"
CONFIG = ("_config.yml", "_toc.yml", "book")
PASSING = ("__pycache__", ".egg-info", ".ipynb_checkpoints")


def digest(*paths: Path) -> str:
    """sha256 over the files at and below paths: their names, from each path on, and their bytes."""
    total = hashlib.sha256()
    for path in paths:
        for file in sorted([path] if path.is_file() else path.rglob("*")):
            name = f"{path.name}/{file.relative_to(path).as_posix()}"
            if file.is_file() and not any(word in name for word in PASSING):
                total.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def stamp(source: Path, root: Path) -> dict:
    """What a notebook is about to be made of."""
    code = digest(*(root / name for name in ("lib", "configs", "constraints.txt")))
    return git_state() | {"source": digest(source), "code": code, "data": digest(root / "data")}


def manifest(html: Path, root: Path) -> dict:
    """The manifest of built pages. ValueError for a page whose notebook was made of other things than lie in `root`."""
    notebooks = {}
    for path in sorted((html / "_sources" / "notebooks").glob("*.ipynb")):
        told = nbformat.read(path, as_version=4).metadata
        made = dict(told.get(STAMP, {}))
        if other := otherwise(made, root / "notebooks" / path.name, root):
            raise ValueError(f"{path.stem} was executed with another {other[0]} than lies here; run make book again")
        notebooks[path.stem] = made | {"parameters": told.papermill.parameters, "executed": digest(path)}
    if not notebooks:
        raise ValueError(f"{html} holds no executed notebook; run make book, or give the folder of a built book")
    return git_state() | {"config": digest(*(root / x for x in CONFIG)), "notebooks": notebooks, "files": files(html)}


def files(html: Path) -> dict[str, str]:
    """The digest of every file of built pages, but for their manifest."""
    pages = (path for path in html.rglob("*") if path.is_file() and path != html / NAME)
    return {path.relative_to(html).as_posix(): digest(path) for path in pages}


def otherwise(made: dict, source: Path, root: Path) -> list[str]:
    """What of a stamp is not as `root` has it."""
    now = stamp(source, root)
    return [what for what in ("source", "code", "data") if made.get(what) != now[what]]


def problems(html: Path, root: Path) -> list[str]:
    """What of built pages is not as their manifest and the checkout in `root` say. ValueError without a manifest."""
    told = load_json(html / NAME)
    changed = {name for name, _ in files(html).items() ^ told["files"].items()}
    found = [f"{name}: changed, lost or added since the book was built" for name in sorted(changed)]
    if told["config"] != digest(*(root / x for x in CONFIG)):
        found.append("settings or prose of the book are not those of this checkout")
    for name, made in told["notebooks"].items():
        source, page = root / "notebooks" / f"{name}.ipynb", html / "notebooks" / f"{name}.html"
        executed = html / "_sources" / "notebooks" / source.name
        if lacking := [path for path in (executed, source, page) if not path.exists()]:
            found.append(f"{name}: {lacking[0]} is not there")
            continue
        found += [f"{name}: ran with another {what} than this checkout's" for what in otherwise(made, source, root)]
        ran, text = nbformat.read(executed, as_version=4), page.read_text()
        if cells(ran) != cells(nbformat.read(source, as_version=4)):
            found.append(f"{name}: the cells that ran are not those of notebooks/")
        data = [output.get("data", {}) for cell in ran.cells for output in cell.get("outputs", [])]
        if lost := [shown for of in data if (shown := of.get("text/html", "").strip()) not in text]:
            found.append(f"{name}: {len(lost)} tables and figures that it made are not on its page")
    return found


def cells(notebook) -> list[tuple[str, str]]:
    """Kind and text of a notebook's cells; what papermill puts in says which parameters were asked for."""
    return [(c.cell_type, c.source) for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]


app = command_line.application(help="What every page of the book was made of.")
Folder = Annotated[Path, typer.Argument(help="built pages")]


@app.command()
def write(html: Folder = ROOT / "_build" / "html"):
    """Write the manifest of built pages into their folder."""
    with command_line.asking():
        save_json(html / NAME, made := manifest(html, ROOT))
    print(f"{html / NAME}: {len(made['notebooks'])} notebooks, {len(made['files'])} files, commit {made['commit'][:7]}")


@app.command()
def check(html: Folder = ROOT / "_build" / "html"):
    """Check built pages against their manifest and this checkout. What is wrong is a line each, and exit code 1."""
    with command_line.asking():
        found = problems(html, ROOT)
    print("\n".join(found) or "every page is what its notebook made, with this checkout's code and data")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    app()
