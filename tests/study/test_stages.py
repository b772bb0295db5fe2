"""A stage is built once; a killed, damaged or outdated artifact is never used."""

import functools
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from study.cache import Artifact, load_json, save_json, stage

BODY = b"weights " * 20
FILES = ["deep/weights.bin", "config.json", "manifest.json"]


@pytest.fixture
def build(tmp_path):
    """Calls `stage` with given changes; `build.count` tells how often the artifact was really built."""

    def write(folder):
        build.count += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "weights.bin").write_bytes(BODY)
        save_json(folder / "config.json", {"width": 8})

    def call(**changes):
        usual = {"name": "sft", "fn": write, "key": {"seed": 0}, "sources": [], "inputs": [], "root": tmp_path}
        return stage(**usual | changes)

    build = call
    build.count = 0
    return build


def test_second_call_reuses_and_says_so(build, capsys):
    first, second = build(), build()
    assert first == second and build.count == 1
    assert (first.path / "deep" / "weights.bin").read_bytes() == BODY
    built, reused = capsys.readouterr().out.splitlines()
    assert built.startswith("stage sft ") and "built in" in built and reused == built.split(":")[0] + ": reused"


def test_manifest_tells_what_was_made_of_what(build):
    found = build(key={"seed": 5, "rate": 1e-3})
    manifest = load_json(found.path / "manifest.json")
    assert {name: facts["bytes"] for name, facts in manifest["files"].items()} == {
        "config.json": (found.path / "config.json").stat().st_size,
        "deep/weights.bin": len(BODY),
    }
    assert manifest["key"] == {"seed": 5, "rate": 1e-3} and manifest["provenance"]["seed"] == 5
    assert manifest["seconds"] >= 0 and found.path.name == f"sft-{manifest['hash'][:12]}"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_never_used(build, name, where, bit):
    before = build()
    count, path = build.count, before.path / name
    damaged = bytearray(path.read_bytes())
    damaged[int(where * len(damaged))] ^= 1 << bit
    path.write_bytes(damaged)
    after = build()
    assert build.count == count + 1 or (name == "manifest.json" and after == before)  # a blank for a blank is no damage
    assert (after.path / "deep" / "weights.bin").read_bytes() == BODY
    assert load_json(after.path / "config.json") == {"width": 8}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "harm",
    [lambda path: os.truncate(path, path.stat().st_size - 3), lambda path: os.truncate(path, 0), Path.unlink],
    ids=["cut", "empty", "gone"],
)
def test_truncated_or_missing_file_is_rebuilt_with_a_message(build, capsys, name, harm):
    path = build().path / name
    harm(path)
    capsys.readouterr()
    assert (build().path / "deep" / "weights.bin").read_bytes() == BODY and build.count == 2
    assert f"damaged ({name}" in capsys.readouterr().out


def test_changed_key_name_or_input_rebuilds_and_the_order_of_keys_does_not(build, tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text("a")
    build(key={"a": 1, "b": 2}, inputs=[source])
    build(key={"b": 2, "a": 1}, inputs=[source])
    assert build.count == 1
    build(key={"a": 1, "b": 3}, inputs=[source])
    build(key={"a": 1, "b": 2}, inputs=[source], name="rm")
    build(key={"a": 1, "b": 2}, inputs=[])
    assert build.count == 4
    source.write_text("b")
    build(key={"a": 1, "b": 2}, inputs=[source])
    assert build.count == 5


def test_an_input_counts_by_its_bytes_not_by_when_it_was_made(build, tmp_path):
    """Rebuilding an equal SFT model must not retrain every reward model; a different one must."""

    def upstream(text, seed):
        def write(folder):
            (folder / "x").write_text(text)

        return stage("up", write, key={"seed": seed}, sources=[], inputs=[], root=tmp_path)

    build(inputs=[upstream("same", 0)])
    build(inputs=[upstream("same", 1)])
    build(inputs=[upstream("same", 0).path])
    assert build.count == 1
    build(inputs=[upstream("other", 2)])
    assert build.count == 2
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build(inputs=[tmp_path / "nowhere"])


def test_changed_source_rebuilds_once_it_is_loaded(build, tmp_path, monkeypatch):
    """An edit during a long run must not label old code's output with the new code's hash."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    code = tmp_path / "recipe_for_test.py"
    code.write_text("def f():\n    return 1\n\ndef g():\n    return 1\n")
    module = importlib.import_module("recipe_for_test")
    build(sources=[module])
    build(sources=[module.f])
    code.write_text("def f():\n    return 22\n\ndef g():\n    return 1\n")
    build(sources=[module])
    build(sources=[module.f])
    assert build.count == 2  # the old code is still what runs
    importlib.reload(module)
    build(sources=[module])
    build(sources=[module.f])
    assert build.count == 4
    build(sources=[module.g])
    code.write_text("def f():\n    return 333\n\ndef g():\n    return 1\n")
    importlib.reload(module)
    build(sources=[module.g])
    assert build.count == 5  # g did not change


def test_the_builder_itself_is_part_of_the_hash(tmp_path):
    def call(fn):
        return stage("s", fn, key={}, sources=[], inputs=[], root=tmp_path)

    one = call(lambda folder: (folder / "x").write_text("1"))
    two = call(lambda folder: (folder / "x").write_text("2"))
    assert one.path != two.path and (two.path / "x").read_text() == "2"


def test_failing_stage_passes_its_error_and_leaves_nothing(build, tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("diverged")

    def overwrite(folder):
        save_json(folder / "manifest.json", {})
        (folder / "x").write_text("x")

    for error, fn in [(RuntimeError, fail), (ValueError, lambda folder: None), (ValueError, overwrite)]:
        with pytest.raises(error):
            build(fn=fn)
    assert [path for path in (tmp_path / "stages").iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"name": "a/b"}, "letters"),
        ({"key": {"rate": float("nan")}}, r"key\.rate"),
        ({"key": {"path": Path("x")}}, r"key\.path"),
        ({"sources": [len]}, "no source"),
        ({"sources": [functools.partial(print)]}, "no source"),
    ],
)
def test_bad_arguments_stop_with_one_line(build, changes, words):
    with pytest.raises(ValueError, match=words):
        build(**changes)


SCRIPT = """
import sys, time
from pathlib import Path
from study.cache import stage
root, gate = Path(sys.argv[1]), Path(sys.argv[1]) / "gate"

def build(folder):
    (folder / "half").write_text("half")
    with (root / "log").open("a") as log:
        log.write("built ")
    print("inside", flush=True)
    while not gate.exists():
        time.sleep(0.02)
    (folder / "half").write_text("whole")

print((stage("slow", build, key={"seed": 0}, sources=[], inputs=[], root=root).path / "half").read_text())
"""


@pytest.fixture
def start(tmp_path):
    """Starts the script above in a process of its own and ends those still running when the test is over."""
    (tmp_path / "script.py").write_text(SCRIPT)
    running = []

    def start():
        library = str(Path(__file__).parents[2] / "lib")
        command = [sys.executable, tmp_path / "script.py", tmp_path]
        environment = os.environ | {"PYTHONPATH": library, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_kill_in_mid_stage_leaves_no_artifact_and_the_next_run_rebuilds(start, tmp_path):
    victim = start()
    assert victim.stdout.readline() == "inside\n"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    left = {path.suffix for path in (tmp_path / "stages").iterdir()}
    assert left == {".lock", ".partial"}  # nothing that looks finished
    (tmp_path / "gate").touch()
    output, _ = start().communicate(timeout=30)
    assert "built in" in output and output.endswith("whole\n")
    assert [path.suffix for path in (tmp_path / "stages").iterdir() if path.suffix != ".lock"] == [""]
    assert (tmp_path / "log").read_text() == "built built "


def test_leftovers_of_a_kill_are_cleared_by_any_later_stage(build, start, tmp_path):
    victim = start()
    assert victim.stdout.readline() == "inside\n"
    build()  # another stage, while the first is being built
    assert len(list((tmp_path / "stages").glob("*.partial"))) == 1
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    build()
    assert list((tmp_path / "stages").glob("*.partial")) == []


def test_two_processes_that_want_one_stage_build_it_once(start, tmp_path):
    first = start()
    assert first.stdout.readline() == "inside\n"
    second = start()
    assert second.stdout.readline().endswith(f"waiting for process {first.pid}\n")
    (tmp_path / "gate").touch()
    outputs = [process.communicate(timeout=30)[0] for process in (first, second)]
    assert "built in" in outputs[0] and "reused" in outputs[1]
    assert all(output.endswith("whole\n") for output in outputs)
    assert (tmp_path / "log").read_text() == "built "


def test_artifact_is_what_callers_unpack(build):
    assert isinstance(build(), Artifact) and build().path.is_dir()
