"""Counts of what was tried. `make hard` tries more, and keeps the counts as records, one line a kind of fault."""

import os
import tempfile
from pathlib import Path

import pytest

OUT, MORE = "HARD_OUT", "HARD_MORE"  # environment: a file of records, and whether to try as much as the book counts


@pytest.fixture(scope="session")
def more() -> bool:
    return bool(os.environ.get(MORE))


@pytest.fixture
def count():
    """count(fault, tried, ended): `ended` is how often each end came. Printed, and a record where one is asked for."""
    import time

    from study.records import provenance, write_record

    started = time.perf_counter()

    def note(fault: str, tried: int, ended: str) -> None:
        print(f"{fault}: {tried}; {ended}")
        if path := os.environ.get(OUT):
            row = {"kind": "fault", "fault": fault, "tried": tried, "ended": ended}
            write_record(path, row | {"provenance": provenance(0, "cpu", started)})

    return note


@pytest.fixture(scope="session")
def memory():
    """A folder in memory where there is one: what is tried is processes that die, not disks."""
    place = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=place if os.access(place, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def undisturbed(memory):
    """(Folder of a study that nothing disturbed, changes to files that it made)."""
    from forked import Folder, on_change

    folder = Folder(memory / "undisturbed").study(on_change(lambda n: print(f"change {n}", flush=True)))
    assert folder.code == 0, folder.said
    return folder, max(int(line.split()[1]) for line in folder.said.splitlines() if line.startswith("change "))
