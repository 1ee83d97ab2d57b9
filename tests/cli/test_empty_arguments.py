import pytest

from e2e_deploy.cli import VERBS, main


@pytest.mark.parametrize("verb", VERBS)
def test_an_empty_argument_is_refused_by_every_verb(verb, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([verb, "", "--out", "b"])
    assert stop.value.code == 2
    error = "error: argument 2 is given an empty text; is a variable unset?\n"
    assert capsys.readouterr() == ("", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["export", "--out", ""], "--out"),
        (["export", "--out="], "--out"),
        (["export", "--precision=fp16", ""], "argument 3"),
        (["data", "check", "x", "--sheet", ""], "--sheet"),
        ([""], "argument 1"),
    ],
)
def test_the_message_names_what_is_empty(arguments, name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {name} is given an empty text")
