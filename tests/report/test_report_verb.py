"""gander report: from words to a file."""

import html
import json

import pytest

from gander.run import Run


def test_a_run_gets_its_page(made, say):
    code, out, _ = say("report", made.run.folder)
    assert code == 0
    page = made.run.folder / "report.html"
    assert f"{page}, 0." in out
    assert "MB: open it in a browser" in out
    assert 'id="attention"' in page.read_text()
    assert Run.open(made.run.folder)  # still a run that opens


def test_several_runs_stand_beside_each_other(made, bare, say, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = say("report", made.run.folder, bare.run.folder)
    assert code == 0
    assert "no attention layers to look at" in out
    assert "2 runs side by side" in (tmp_path / "report.html").read_text()
    assert say("report", made.run.folder, bare.run.folder, "--out", tmp_path / "b.html")[0] == 0
    assert (tmp_path / "b.html").is_file()


def test_a_run_of_ones_own_recipe_is_reported_without_its_networks(made, say):
    told = json.loads((made.run.folder / "run.json").read_text())
    (made.run.folder / "run.json").write_text(json.dumps({**told, "recipe": "mine.py"}))
    code, out, _ = say("report", made.run.folder)
    assert code == 0
    assert "--recipe ./mine.py" in out
    text = (made.run.folder / "report.html").read_text()
    assert "--recipe ./mine.py" in text
    assert 'id="training"' in text


def test_a_file_that_a_run_folder_names_is_never_run(made, say, tmp_path):
    """A stranger's run.json may name any file; only --recipe makes one run."""
    mine = tmp_path / "theirs.py"
    mine.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    told = json.loads((made.run.folder / "run.json").read_text())
    (made.run.folder / "run.json").write_text(json.dumps({**told, "recipe": str(mine)}))
    assert say("report", made.run.folder)[0] == 0
    assert not (tmp_path / "ran").exists()


def test_what_is_copied_into_a_shell_is_one_command(made, say):
    told = json.loads((made.run.folder / "run.json").read_text())
    (made.run.folder / "run.json").write_text(json.dumps({**told, "command": "gander train sagan; echo $(id) | sh"}))
    assert say("report", made.run.folder)[0] == 0
    text = html.unescape((made.run.folder / "report.html").read_text())
    assert "gander train 'sagan;' echo '$(id)' '|' sh" in text
    assert "sagan; echo" not in text


def test_a_page_draws_no_endless_list_of_heads(made, say):
    file = made.run.folder / "look" / "explorer.json"
    assert say("report", made.run.folder)[0] == 0
    told = json.loads(file.read_text())
    told["images"][0]["networks"][0]["layers"][0]["heads"] = [""] * 65
    file.write_text(json.dumps(told))
    code, _, _ = say("report", made.run.folder)
    assert code == 0
    assert "no list of at most 64 heads" in (made.run.folder / "report.html").read_text()


def test_a_study_has_a_page_of_its_own(made, say, tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    assert "gander compare makes it" in say("report", study)[2]
    (study / "study.html").write_text("")
    assert str(study / "study.html") in say("report", study)[1]
    code, _, err = say("report", made.run.folder, study)
    assert code == 2
    assert "which has a page of its own" in err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "gander report wants a run first"),
        (["nowhere"], "nowhere does not exist; runs are made by `gander train`"),
        (["RUN", "--out", "page.pdf"], "--out page.pdf is no HTML file; name it like report.html"),
        (["RUN", "--ot", "x"], "no flag called '--ot'; did you mean '--out'?"),
    ],
)
def test_mistakes_get_one_line(made, say, words, line):
    code, _, err = say("report", *(made.run.folder if word == "RUN" else word for word in words))
    assert code == 2
    assert line in err
    assert err.count("\n") == 1
