"""Disks that fill up, folders that take no file, files that are damaged, studies that meet: one clear line or a correct
result, and nothing lost."""

import errno
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from densereward.seeding import rng
from forked import ROWS, Folder, refused_from


def said_once(folder: Folder, words: str) -> None:
    """The study ended in one line that says why and what to do."""
    lines = [line for line in folder.said.splitlines() if line.startswith("Error: ")]
    assert folder.code in (1, 2) and len(lines) == 1 and words in lines[0], folder.said
    assert "Traceback" not in folder.said


def limited(size: int):
    """No file may grow beyond `size` bytes: what libraries write in C and Rust is refused too."""

    def begin(folder: Path) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return begin


def test_a_disk_that_fills_up_at_any_point_ends_the_study_in_one_line_and_nothing_is_lost(
    undisturbed, memory, count, more
):
    draw, wanted = rng(0, "disks"), undisturbed[0].records()
    folder, tried = Folder(memory / "full"), 0
    for _ in range(12 if more else 2):
        if folder.code == 0:
            folder = Folder(memory / f"full {tried}")
        folder.study(refused_from(int(draw.integers(1, undisturbed[1]))))
        if folder.code:
            said_once(folder, "No space left on device")
            tried += 1
    for size in [3_000, 12_000, 30_000] if more else [12_000]:
        folder.study(limited(size))
        if folder.code:
            said_once(folder, "File too large")
            tried += 1
    folder.study()
    assert folder.code == 0 and folder.records() == wanted, folder.said
    count("disk full, or a file too large, at a random point", tried, "one line each; with room, every record as ever")


def test_a_small_file_system_that_is_full_ends_the_study_in_one_line_and_nothing_is_lost(
    undisturbed, memory, count, more
):
    place, sizes = memory / "small", ("64k", "120k", "160k", "250k") if more else ("150k",)
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={sizes[0]}", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may mount no file system here")
    try:
        folder = Folder(place / "study")
        folder.log = memory / "log of small"
        for size in sizes:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)
            folder.study()
            said_once(folder, "No space left on device")
        subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
        folder.study()
        assert folder.code == 0 and folder.records() == undisturbed[0].records(), folder.said
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
    count("a small file system, full", len(sizes), "one line each; enlarged, every record as ever")


def test_folders_that_take_no_file_are_refused_before_any_work(memory, count):
    def as_nobody(path: Path):
        def begin(folder: Path) -> None:
            path.chmod(0o555)
            if os.geteuid() == 0:
                os.seteuid(65534)  # root may write anywhere

        return begin

    shut = [Folder(memory / "shut").study(as_nobody(memory / "shut"))]
    (memory / "open" / "out").mkdir(parents=True)
    for path, out in ((memory / "open", memory / "out.jsonl"), (memory / "open" / "out", memory / "open/out/x.jsonl")):
        memory.chmod(0o777), (memory / "open").chmod(0o777)
        shut.append(Folder(memory / "open").study(as_nobody(path), out=out))
    for folder in shut:
        said_once(folder, "Permission denied")
        assert folder.code == 2 and "stage" not in folder.said
    read_only = Folder(memory / "mounted").study(refused_from(1, errno.EROFS))
    said_once(read_only, "Read-only file system")
    out_is = Folder(memory / "a folder").study(out=memory)
    said_once(out_is, "a folder; give a file")
    count(
        "read-only folders for records or stages, a folder in a file's place",
        len(shut) + 2,
        "one line each, before any work",
    )


def kinds(folder: Folder) -> list[Path]:
    """Every file of every stage; several of one kind of one stage count once."""
    found = {}
    for path in sorted((folder.path / "stages").glob("*-*/**/*")):
        if path.is_file():
            inside = path.relative_to(folder.path / "stages")
            found.setdefault((inside.parts[0].rsplit("-", 1)[0], path.name), path)
    return list(found.values())


def damaged(path: Path, how: str, draw) -> None:
    size = path.stat().st_size
    at = int(draw.integers(size))
    if how == "cut":
        os.truncate(path, at)
    elif how == "gone":
        path.unlink()
    else:
        body = bytearray(path.read_bytes())
        body[at] ^= 1 << int(draw.integers(8))
        path.write_bytes(body)


def test_a_damaged_file_of_any_stage_is_made_anew_and_never_used(undisturbed, memory, count, more):
    """One file of each stage at a time, so that what stands on a damaged stage is damaged too."""
    wanted, draw, folder = undisturbed[0].records(), rng(0, "damage"), Folder(memory / "damaged").study()
    by_stage: dict[str, list] = {}
    for path in kinds(folder):
        by_stage.setdefault(path.relative_to(folder.path / "stages").parts[0], []).append(path)
    tries = {
        stage: [(path, how) for path in paths for how in ("cut", "flipped", "gone")]
        for stage, paths in by_stage.items()
    }
    if not more:
        tries = {stage: [several[i] for i in draw.permutation(len(several))[:2]] for stage, several in tries.items()}
    tried, rounds = 0, max(map(len, tries.values()))
    for i in range(rounds):
        now = [several[i] for several in tries.values() if i < len(several)]
        for path, how in now:
            damaged(path, how, draw)
        folder.out.unlink()
        folder.study()
        assert folder.code == 0 and folder.records() == wanted, (now, folder.said)
        assert folder.said.count("damaged (") == len(now), (now, folder.said)
        tried += len(now)
    files = sum(map(len, by_stage.values()))
    ended = f"{files} kinds of files of {len(by_stage)} stages: told, made anew, every record as ever"
    count("a stage's file cut, a bit of it flipped, or gone", tried, ended)


def test_two_studies_in_one_folder_take_turns_and_make_every_record_once(undisturbed, memory, count, more):
    for i in range(3 if more else 1):
        one = Folder(memory / f"two {i}")
        two = Folder(one.path)
        two.log = one.path / "second"
        pids = one.start(), two.start()
        one.wait(pids[0]), two.wait(pids[1])
        assert (one.code, two.code) == (0, 0), one.said + two.said
        assert one.records() == undisturbed[0].records()  # which holds one record a row
        built = (one.said + two.said).count("built in")
        assert built == len(list((one.path / "stages").glob("[a-z]*-*"))), "each stage is built by one of them"
    count("two studies in one folder at once", i + 1, f"{len(ROWS)} records each time, each as undisturbed")


def test_records_whose_last_line_was_cut_go_on_and_other_damage_names_its_line(undisturbed, memory, count, more):
    text, draw, folder = undisturbed[0].out.read_bytes(), rng(0, "records"), Folder(memory / "records")
    lines = text.splitlines(keepends=True)
    folder.out.write_bytes(text[: len(lines[0] + lines[1]) + int(draw.integers(1, len(lines[2])))])
    folder.study()
    assert folder.code == 0 and folder.records() == undisturbed[0].records(), folder.said
    tried = 0
    for _ in range(40 if more else 5):
        at = int(draw.integers(len(lines[0] + lines[1])))
        number = 1 + text[:at].count(b"\n")
        folder.out.write_bytes(text[:at] + b"\xff\x00" + text[at + 2 :])
        before = folder.out.read_bytes()
        folder.study()
        said_once(folder, f"runs.jsonl:{number}: not a record")
        assert folder.out.read_bytes() == before
        tried += 1
    count(
        "a records file cut in its last line, or with bytes that are no text",
        1 + tried,
        "resumed; one line each that names file and line",
    )
