"""How far a long stage is, and what is left of it: on stderr, from its third second on.

On a terminal it is tqdm's bar; in a notebook a text on one line, renewed every 10 s, which is gone at the end;
in a log file or a pipe a line of its own, every 10 s at most. Training and sampling never wait for it or draw for it.
`shown` is what stays of it in the book's pages: nothing.
"""

import re
import sys
from collections.abc import Callable, Iterable

from tqdm import tqdm

DELAY = 3.0  # seconds that a stage may take unseen
EVERY = 10.0  # seconds from one line to the next, where they stay
FORMAT = "{desc}{postfix}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left"
LINE = re.compile(r"[^\r\n]+: \d+ of [\d?]+, [\d:]+ gone, [\d:?]+ left")


class _Bar(tqdm):
    monitor_interval = 0  # no thread beside
    beside = staticmethod(str)  # what is said beside the numbers, asked for when it is drawn

    @property
    def format_dict(self) -> dict:
        return super().format_dict | {"postfix": self.beside()}


class _Lines:
    """A stream in which what tqdm draws over itself becomes lines."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text: str) -> None:
        if text := text.strip():
            self.stream.write(f"{text}\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(
    what: str, items: Iterable | None = None, total: int | None = None, beside: Callable[[], str] | None = None
) -> tqdm:
    """`items` to loop over, or with `total` a counter to `update`; `what` names them, in the plural. `beside()` is said
    with the numbers, as what was spent so far."""
    stream = sys.stderr
    settings = {"file": stream, "delay": DELAY, "leave": False, "position": 0, "smoothing": 0.0, "miniters": 1}
    if not stream.isatty():
        in_notebook = type(stream).__module__.startswith("ipykernel")
        settings |= {"mininterval": EVERY, "bar_format": FORMAT, "file": stream if in_notebook else _Lines(stream)}
    bar = _Bar(items, desc=what, total=total, **settings)
    bar.beside = beside or bar.beside
    return bar


def shown(text: str) -> str:
    """Text without lines of progress, and without what carriage returns drew over."""
    return re.sub(r"[^\n]*\r(?!\n)", "", LINE.sub("", text))
