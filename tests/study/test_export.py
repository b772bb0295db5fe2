"""What an export that fails or is stopped leaves behind: the committed models, as they were."""

import re

import pytest
from huggingface_hub import ModelCard

from study import export
from study.profiles import PROFILES, models_folder, profile
from study.run import Run


@pytest.fixture
def target(tmp_path, monkeypatch):
    """A folder of committed models with one scorer."""
    folder = tmp_path / "models" / "cpu"
    for name in ("sft", "bandit"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"old")
    (folder / "bandit" / "metrics.json").write_text("{}")
    monkeypatch.setattr(export, "models_folder", lambda profile: folder)
    return folder


def kept(target) -> bool:
    """Whether the old models are there and nothing else is."""
    whole = all((target / name / "model.safetensors").read_bytes() == b"old" for name in ("sft", "bandit"))
    return whole and [path.name for path in target.parent.iterdir()] == ["cpu"]


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), SystemExit("bandit: accuracy .5 is below .6"), OSError(28, "full")]
)
def test_models_stay_until_all_are_made_anew(target, tmp_path, monkeypatch, stop):
    def stopped(run, methods, folder):
        (folder / "sft").mkdir(parents=True)
        raise stop

    monkeypatch.setattr(export, "write", stopped)
    with pytest.raises(type(stop)):
        export.main("cpu", 0, "bandit", tmp_path)
    assert kept(target)

    def done(run, methods, folder):
        (folder / "bandit").mkdir(parents=True)

    monkeypatch.setattr(export, "write", done)
    export.main("cpu", 0, "bandit", tmp_path)
    assert [path.name for path in target.parent.iterdir()] == ["cpu"] and (target / "bandit").exists()
    assert not (target / "sft").exists()


@pytest.mark.parametrize("at", [1, 2])
def test_an_export_stopped_between_two_renames_puts_the_old_models_back(target, monkeypatch, at):
    calls, rename = [], type(target).rename

    def stopping(path, to):
        calls.append(to)
        if len(calls) == at:
            raise KeyboardInterrupt
        return rename(path, to)

    monkeypatch.setattr(type(target), "rename", stopping)
    with pytest.raises(KeyboardInterrupt), export.replaced(target) as made:
        made.mkdir()
    assert kept(target)


def test_a_killed_export_is_made_good_by_the_next_one_even_if_that_fails(target):
    """SIGKILL between the renames leaves the only copy under another name; it was deleted as rubbish."""
    target.rename(target.with_name("cpu.old"))
    with pytest.raises(SystemExit), export.replaced(target):
        raise SystemExit(1)
    assert kept(target)


@pytest.mark.parametrize(
    "given, says",
    [
        ({"profile": "huge"}, "unknown profile 'huge'"),
        ({"seed": -1}, "seed is -1; give a whole number"),
        ({"methods": "magic"}, "unknown method 'magic'"),
        ({"methods": ""}, "methods is ''; give one or more"),
        ({"methods": "bandit,oracle-dense"}, "method 'oracle-dense' has no scorer that is trained"),
        ({"methods": "token"}, "has scorers of bandit too: name them"),
        ({"profile": "smoke"}, "profile 'smoke' starts from the models of 'cpu'; export those"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_trained_or_touched(
    target, tmp_path, monkeypatch, capsys, given, says
):
    monkeypatch.setattr(export, "write", lambda *_: pytest.fail("it went to work"))
    with pytest.raises(SystemExit) as stop:
        export.main(**{"profile": "cpu", "seed": 0, "methods": "bandit", "runs": tmp_path} | given)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and re.search(re.escape(says), said) and said.count("\n") == 1
    assert kept(target)


def test_a_folder_of_runs_that_is_none_is_refused(target, tmp_path):
    """All stages would be trained anew in it, for hours."""
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "misspelt", tmp_path / "file"):
        with pytest.raises(ValueError, match="no folder: all would be trained anew"):
            export.check(Run(profile("cpu"), root=root), ["bandit"], target)
    assert not (tmp_path / "misspelt").exists()


def test_every_committed_model_has_a_card_that_loads_and_is_what_an_export_would_write(tmp_path):
    """A hub, or a reader who finds the weights, would not know what they are, nor what they came of."""
    folders = [folder for name in PROFILES if models_folder(name).exists() for folder in models_folder(name).iterdir()]
    assert folders
    for folder in folders:
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == "transformers" and "half precision" in card.text
        assert str(folder.parents[3]) not in card.text, "a machine's path"
        made = tmp_path / folder.name
        made.mkdir()
        for beside in ("metrics.json", "provenance.json"):
            if (folder / beside).exists():
                (made / beside).write_bytes((folder / beside).read_bytes())
        export.describe(Run(profile(folder.parent.name), root=tmp_path), made)
        assert (made / "README.md").read_text() == (folder / "README.md").read_text()
