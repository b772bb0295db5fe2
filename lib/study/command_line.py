"""Command lines whose errors are plain lines."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
        print(f"Error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
