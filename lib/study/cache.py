"""Stages cached by content: built once, reused while nothing that determines them has changed.

What determines an artifact: the stage's name, its key (settings, seed), the source code it names, and the content of
its inputs. Changing one rebuilds this artifact, and further down only what received other bytes. Left out: library
versions and the machine (kept in each manifest, but an upgrade rebuilds nothing), pickle, eviction, remote stores.
"""

import fcntl
import hashlib
import inspect
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from densereward.canonical import canonical, plain
from study.records import git_state, provenance

OURS = ("densereward", "testbed", "study", "report")  # packages
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """A finished stage: the folder `path`, and its `manifest` (files, key, code, inputs, seconds, provenance)."""

    path: Path
    manifest: dict


def save_json(path: str | Path, value) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all. Raises ValueError, naming the key, for NaN
    or foreign types."""
    path = Path(path)
    text = json.dumps(plain(value, path.name), indent=1, sort_keys=True) + "\n"
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.write_text(text)
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def load_json(path: str | Path):
    """Read one JSON file. Raises ValueError, naming the file, when it does not parse."""
    try:
        return json.loads(Path(path).read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error})") from None


def _hash(value) -> str:
    return hashlib.sha256(canonical(value, "key").encode()).hexdigest()


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict:
    """Size and sha256 of every file below `folder`, its manifest left out."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != folder / MANIFEST]
    return {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": _hash_file(p)} for p in found}


def digest(item: Artifact | str | Path) -> str:
    """Hash of an input's content. A manifest's times are no content: an equal rebuild upstream changes nothing."""
    if isinstance(item, Artifact):
        return _hash(item.manifest["files"])
    path = Path(item)
    if not path.exists():
        raise FileNotFoundError(f"input {path} does not exist; run the stage that makes it, or correct the path")
    return _hash(_files(path)) if path.is_dir() else _hash_file(path)


_seen: dict = {}  # module -> (its import spec, its source when first seen)


def _source(thing: ModuleType | Callable) -> str:
    """Source of `thing` as this process loaded it: an edit on disk counts once it is reloaded, not in mid-run."""
    if inspect.ismodule(thing):
        if thing not in _seen or _seen[thing][0] is not thing.__spec__:  # a reload makes a new spec
            _seen[thing] = (thing.__spec__, inspect.getsource(thing))
        return _seen[thing][1]
    code, module = thing.__code__, sys.modules.get(thing.__module__)
    if getattr(module, "__file__", None) != code.co_filename:
        return inspect.getsource(code)  # a notebook cell
    return "".join(inspect.getblock(_source(module).splitlines(keepends=True)[code.co_firstlineno - 1 :]))


def _code(things: list) -> list[list[str]]:
    """[name, sha256 of the source] of each module or function."""
    for name, module in list(sys.modules.items()):  # our own modules now, before a long run gives time to edit them
        if name.split(".")[0] in OURS:
            with suppress(OSError, TypeError):  # an empty __init__.py has no source
                _source(module)
    pairs = []
    for thing in map(inspect.unwrap, things):
        name = thing.__name__ if inspect.ismodule(thing) else f"{thing.__module__}.{getattr(thing, '__name__', thing)}"
        try:
            pairs.append([name, hashlib.sha256(_source(thing).encode()).hexdigest()])
        except (OSError, TypeError, AttributeError):
            raise ValueError(f"{name} has no source; pass a module, or a function from a file or a cell") from None
    return sorted(pairs)


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path`; yields False at once if `wait` is off and another process holds it.

    The kernel frees the lock when its holder dies. The file stays: removing it would let two processes in.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                yield False
                return
            print(f"{path.stem.lstrip('.')}: waiting for process {os.pread(file, 20, 0).decode()}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        try:
            yield True
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would leave it to a forked child
    finally:
        os.close(file)


def _sweep(stages: Path) -> None:
    """Remove what killed builders left. A partial folder whose lock is held is being built: leave it."""
    for partial in stages.glob("*.partial"):
        with lock(stages / f".{partial.name.split('.')[0]}.lock", wait=False) as held:
            if held:
                shutil.rmtree(partial, ignore_errors=True)


def _verified(folder: Path, wanted: dict) -> dict:
    """The manifest of `folder`, every byte checked. Raises ValueError with what is wrong."""
    try:
        manifest = load_json(folder / MANIFEST)
        seal = manifest.pop("seal")
        sealed = seal == _hash(manifest) and all(manifest[name] == value for name, value in wanted.items())
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        sealed = False
    if not sealed:
        raise ValueError(f"{MANIFEST} is missing or damaged")
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        if path.stat().st_size != facts["bytes"]:
            raise ValueError(f"{name} has {path.stat().st_size} bytes, not {facts['bytes']}")
        if _hash_file(path) != facts["sha256"]:
            raise ValueError(f"{name} has other content than was written")
    return manifest


def _build(folder: Path, fn: Callable[[Path], object], wanted: dict) -> dict:
    """Run `fn` in a folder beside `folder`, add the manifest, and rename it into place."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    partial.mkdir()
    started = time.perf_counter()
    try:
        fn(partial)
        files = _files(partial)
        if not files or (partial / MANIFEST).exists():
            raise ValueError(f"stage {wanted['name']}: write at least one file, and none named {MANIFEST}")
        torch = sys.modules.get("torch")  # a stage that computes has it
        device = "cuda" if torch and torch.cuda.is_initialized() else "cpu"
        origin = provenance(wanted["key"].get("seed"), device, started)
        manifest = wanted | {"files": files, "seconds": origin["seconds"], "provenance": origin}
        save_json(partial / MANIFEST, manifest | {"seal": _hash(manifest)})
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return manifest


def stage(
    name: str, fn: Callable[[Path], object], *, key: dict, sources: list, inputs: list, root: str | Path
) -> Artifact:
    """The artifact of `fn(folder)` under `root`/stages/<name>-<hash>: reused if it is there and whole, else built.

    The hash covers `name`, `key` (JSON values; whatever `fn` captures belongs here), the source of `fn` and of each
    module or function in `sources`, and the bytes of `inputs` (artifacts, or paths of files and folders; for weights
    of many GB put name and revision in `key` instead). A damaged artifact is removed and built anew, never used.
    Of several processes that want one artifact, one builds and the others wait. What `fn` raises passes through and
    leaves nothing behind. Raises ValueError for a name other than letters, digits, '-' and '_', for a key that is not
    JSON, and for code without source; FileNotFoundError for a missing input.
    """
    if not re.fullmatch(r"[\w-]+", name, re.ASCII):
        raise ValueError(f"stage name {name!r}: use letters, digits, '-' and '_'")
    git_state()  # now, not when the work is done: the commit that is running
    wanted = {"name": name, "key": plain(key, "key"), "code": _code([fn, *sources]), "inputs": [*map(digest, inputs)]}
    wanted["hash"] = _hash(wanted)
    label = f"stage {name} {wanted['hash'][:12]}"
    folder = Path(root).resolve() / "stages" / f"{name}-{wanted['hash'][:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with lock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            try:
                manifest = _verified(folder, wanted)
                print(f"{label}: reused", flush=True)
                return Artifact(folder, manifest)
            except ValueError as problem:
                print(f"{label}: damaged ({problem}), building it anew", flush=True)
                shutil.rmtree(folder)
        manifest = _build(folder, fn, wanted)
    print(f"{label}: built in {manifest['seconds']:.1f} s", flush=True)
    return Artifact(folder, manifest)
