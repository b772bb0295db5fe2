"""What would break: a KL penalty in the unit of another world."""

import pytest

from study.cache import MANIFEST, save_json
from study.measures import oracle_units
from study.records import read_records


def test_each_world_and_seed_has_its_unit_once(tmp_path):
    worlds = [(1, "excess-1.0", 0, 2.5), (1, "excess-1.0", 0, 2.5), (2, "excess+0.2", 1, 5.0)]
    for i, (parts, returns, seed, unit) in enumerate(worlds):
        folder = tmp_path / "runs" / "stages" / f"ppo-{i}"
        folder.mkdir(parents=True)
        key = {"dataset": {"parts": parts, "returns": returns}, "seed": seed}
        save_json(folder / MANIFEST, {"key": key, "provenance": {"commit": "c0ffee"}})
        save_json(folder / "unit.json", unit)
    oracle_units.main(tmp_path / "units.jsonl", tmp_path / "runs")
    found = read_records(tmp_path / "units.jsonl")
    assert [tuple(r[x] for x in ("parts", "returns", "seed", "unit")) for r in found] == sorted(set(worlds))


def test_without_policies_nothing_is_written(tmp_path, capsys):
    with pytest.raises(SystemExit):
        oracle_units.main(tmp_path / "units.jsonl", tmp_path)
    assert "study.density_map trains them" in capsys.readouterr().err and not (tmp_path / "units.jsonl").exists()
