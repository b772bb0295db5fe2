"""Whoever kills a study, and whenever, loses at most what was under way."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densereward.canonical import canonical
from densereward.seeding import rng
from forked import ROWS, TINY, Folder, killed_at


def test_equal_seeds_give_records_equal_to_the_byte(undisturbed, memory, count):
    again = Folder(memory / "again").study()
    assert again.code == 0 and again.records() == undisturbed[0].records()
    count("equal seeds, run twice", len(ROWS), "records equal to the byte, but for times and origin")


def test_records_after_any_kill_and_a_resume_are_those_of_an_undisturbed_study(undisturbed, memory, count, more):
    """Half of the kills strike before a random change to a file, where there is most to break; half by the clock."""
    wanted, changes = undisturbed[0].records(), undisturbed[1]
    draw, kills, finished, mended = rng(0, "kills"), 0, 0, 0
    enough = 50 if more else 3
    while kills < enough:
        folder = Folder(memory / f"killed {finished}")
        for strikes in range(4):  # a study is killed up to four times, in its resumes too
            if strikes % 2:
                pid = folder.start()
                time.sleep(float(draw.uniform(0.1, 0.5 * undisturbed[0].seconds)))
                os.kill(pid, signal.SIGKILL)
                folder.wait(pid)
            else:
                folder.study(killed_at(int(draw.integers(1, changes // 2))))
            kills += folder.code == -signal.SIGKILL
            if folder.code == 0 or kills >= enough:
                break
        folder.study()
        assert folder.code == 0 and folder.records() == wanted, folder.said
        assert not list(folder.path.rglob("*.partial")), "what a killed process left is removed"
        mended, finished = mended + folder.said.count("damaged"), finished + 1
    assert mended == 0, "a stage that a kill leaves half done is not taken for one"
    count("kill -9 of a study at a random point", kills, f"{finished} studies resumed, every record as undisturbed")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads /proc")
def test_processes_of_a_killed_study_end_with_it_and_the_next_one_finishes(undisturbed, memory, count, more):
    """They went on by themselves, and wrote beside the study that was started again."""
    folder, kills = Folder(memory / "jobs"), 2 if more else 1

    def left() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += [path.parent.name] * (str(folder.out).encode() in path.read_bytes())
            except OSError:
                continue
        return found

    given = ["--profile", "smoke", "--methods", ",".join(ROWS), "--seeds", "0", "--jobs", "2", "--change"]
    given += [canonical(TINY), "--out", str(folder.out), "--runs", str(folder.path)]
    for at_work in range(kills):  # the first strikes while tasks load their libraries
        with folder.log.open("w") as log:
            study = subprocess.Popen([sys.executable, "-m", "study.runner", *given], stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while (len(left()) < 2 or folder.log.read_text().count("built") < at_work) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(left()) >= 2, f"no task was started: {folder.log.read_text()}"
        study.kill()
        study.wait()
        while left() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left(), "a process of the killed study is still at work"
    folder.study()
    assert folder.code == 0 and folder.records() == undisturbed[0].records()
    count("kill -9 of a study with --jobs 2", kills, "its processes ended too; resumed, every record as undisturbed")
