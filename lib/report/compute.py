"""What the records cost, and what they were made with: hours, seeds, machines, versions.

Every process has one thread. Seconds of a stage are by the clock, waiting for others on the machine included. Left
out: runs that left no record, trials that set a profile's size, the tests, and the book."""

from pathlib import Path

import pandas as pd

from study.records import ROOT, read_records

RESULTS = ROOT / "data" / "results"


def load(folder: Path = RESULTS) -> dict[str, list[dict]]:
    """The records of every file below `folder`, by its path there; without a reader's own of profile smoke."""
    paths = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*.jsonl"))}
    return {name: read_records(path) for name, path in paths.items() if not name.startswith("smoke/")}


def hours(files: dict[str, list[dict]]) -> pd.DataFrame:
    """A line per file and one of all: records, rows of `methods.py`, seeds, hours of one thread with what rows share
    counted once (`seconds`), and as if each run had been alone."""
    lines = []
    for name, records in files.items():
        alone = sum(sum(r["stage_seconds"].values()) if "stage_seconds" in r else own(r) for r in records)
        rows = {r["method"] for r in records if "method" in r}
        of_seeds = {r["seed"] for r in records if r.get("seed") is not None}
        line = {"file": name, "records": len(records), "rows": len(rows), "seeds": len(of_seeds)}
        lines.append(line | {"hours of one thread": seconds(records) / 3600, "each run alone": alone / 3600})
    found = pd.DataFrame(lines).astype({"rows": "Int64", "seeds": "Int64"})
    total = found[["records", "hours of one thread", "each run alone"]].sum()
    return pd.concat([found, pd.DataFrame([{"file": "all", **total}])], ignore_index=True)


def seconds(records: list[dict]) -> float:
    """Seconds of all stages, one that several records took from the cache counted once: it has the same seconds, to
    the millisecond, in each of them. A record without stages has those of its process, which the records of a `part`
    share."""
    stages = {(name, took) for r in records for name, took in r.get("stage_seconds", {}).items()}
    processes: dict = {}
    for i, r in enumerate(records):
        if "stage_seconds" not in r:
            key = r.get("part", i)
            processes[key] = max(own(r), processes.get(key, 0.0))
    return sum(took for _, took in stages) + sum(processes.values())


def own(record: dict) -> float:
    """Seconds of the process that wrote a record."""
    return record["provenance"].get("seconds") or 0.0


def machines(files: dict[str, list[dict]]) -> pd.DataFrame:
    """What the records were made with: each value, and in how many records it stands; the most frequent first."""
    lines = []
    for made in (r["provenance"] for records in files.values() for r in records):
        told = {name: made.get(name) for name in ("python", "platform", "cpu", "cores", "threads", "gpu")}
        told |= made.get("packages", {}) | {"commits": made.get("commit"), "uncommitted changes": made.get("dirty")}
        lines.append({name: "none" if value is None else str(value) for name, value in told.items()})
    frame, rows = pd.DataFrame(lines), []
    for name in frame:
        counts = frame[name].dropna().value_counts()
        values = f"{len(counts)} different" if name == "commits" else None
        told = values or ", ".join(f"{value} ({n})" if len(counts) > 1 else value for value, n in counts.items())
        rows.append({"of": name, "in the records": told})
    return pd.DataFrame(rows)


def sentence(files: dict[str, list[dict]]) -> str:
    """All of it in two sentences."""
    total = hours(files).iloc[-1]
    gpus = sum(r["provenance"].get("gpu") is not None for records in files.values() for r in records)
    peak = max(r["provenance"].get("peak_rss_mib") or 0 for records in files.values() for r in records) / 1024
    return (
        f"{total.records:.0f} records took {total['hours of one thread']:.0f} hours of one thread, waiting included; "
        f"run one by one, with nothing shared, they would have taken {total['each run alone']:.0f}. "
        f"{gpus or 'None'} of them used a GPU, and none more than {peak:.1f} GiB of memory."
    )
