"""Command lines whose errors are plain lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer


def application(**settings) -> typer.Typer:
    """A command line whose errors are plain lines."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, **settings)


def command(main: Callable) -> typer.Typer:
    """The command line of one function."""
    app = application()
    app.command()(main)
    return app


@contextmanager
def asking() -> Iterator[None]:
    """Around what is checked before work starts: a ValueError or OSError there is one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename and ";" not in said:  # the system's words have no mend
            said = f"{error.filename}: {error.strerror}; mend that, or give another path"
        print(f"Error: {said}", file=sys.stderr)
        raise SystemExit(2) from None


def records_file(path: Path) -> Path:
    """The path, with a folder that takes its file. ValueError for a folder in its place, OSError for none."""
    if path.is_dir():
        raise ValueError(f"out is {path}, a folder; give a file such as {path / 'runs.jsonl'}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
