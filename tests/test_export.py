"""What a failed export leaves behind: the committed models, as they were."""

import pytest

from densereward import export


def test_models_stay_until_all_are_made_anew(tmp_path, monkeypatch):
    target = tmp_path / "cpu"
    (target / "sft").mkdir(parents=True)
    (target / "sft" / "model.safetensors").write_bytes(b"old")
    monkeypatch.setattr(export, "models_folder", lambda profile: target)

    def stopped(run, methods, folder):
        (folder / "sft").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
        export.main("cpu", 0, "bandit", tmp_path)
    assert (target / "sft" / "model.safetensors").read_bytes() == b"old"

    def done(run, methods, folder):
        assert not folder.exists(), "what the stopped one left is in the way"
        (folder / "bandit").mkdir(parents=True)

    monkeypatch.setattr(export, "write", done)
    export.main("cpu", 0, "bandit", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cpu"] and (target / "bandit").exists()
    assert not (target / "sft").exists()
