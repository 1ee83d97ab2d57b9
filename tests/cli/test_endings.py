"""What is said when a command ends early, and its exit code."""

from pathlib import Path

import click
import pytest

from e2e_deploy import cli as package
from e2e_deploy.errors import BundleError, ParityError
from tests.plain_bundle import write_plain_bundle


@pytest.fixture
def ending(cli, monkeypatch):
    """ending(error) -> (exit code, stderr) of a verb in which that error comes up."""

    def end(error, *arguments):
        @click.command()
        @click.argument("given", nargs=-1)
        def command(given):
            raise error

        monkeypatch.setattr(package.Verbs, "get_command", lambda self, ctx, name: command)
        code, stdout, stderr = cli("verb", *arguments)
        assert stdout == ""
        return code, stderr

    return end


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (BundleError("b is damaged"), 5, "error: b is damaged\n"),
        (ParityError("too far"), 3, "error: too far\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (OSError(28, "No space left on device", "x.png"), 1, "error: x.png: No space left on device\n"),
        (MemoryError("12 GiB"), 1, "error: there is not enough memory here: 12 GiB\n"),
        (RecursionError(), 5, "error: an input is nested too deeply\n"),
        (EOFError(), 5, "\nerror: an input ends too early\n"),
    ],
)  # fmt: skip
def test_one_sentence_and_a_code(ending, error, code, said):
    assert ending(error) == (code, said)


def test_a_text_that_cannot_be_encoded(ending):
    with pytest.raises(UnicodeEncodeError) as caught:
        "\udcff".encode()
    code, said = ending(caught.value)
    assert code == 1
    assert said.startswith("error: a text cannot be read or written: 'utf-8' codec")


def test_a_mistake_of_ours_is_not_hidden(ending):
    with pytest.raises(ZeroDivisionError):
        ending(ZeroDivisionError())


def test_control_characters_do_not_reach_the_terminal(ending):
    code, said = ending(BundleError("a\x1b]0;pwned\x07\x9b2Jb\nc \N{RIGHT-TO-LEFT OVERRIDE}d"))
    assert (code, said.count("\n")) == (5, 1)
    assert not set(said) & set("\x1b\x07\x9b\u202e")


def test_nor_do_those_of_arguments(cli):
    code, _, said = cli("run", "x\x1b[2J", "y\x1b[2J", "--bundle", "b")
    assert code == 2
    assert "\x1b" not in said


def test_a_long_message_ends(ending):
    assert len(ending(BundleError("x" * 100_000))[1]) < 3000


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://u:s3cret@h/x",
        "https://s3cret@h/x",
        "rtsp:/u:s3/cret@h",
        "h/x?token=s3cret",
        "u:'s3cret\\@h",
    ],
)
def test_no_verb_shows_the_password_of_an_address(ending, cli, address):
    for error in (
        BundleError(f"{address} is none"),
        OSError(2, "No such file", address),
        BundleError(f"{address!r}"),
    ):
        for arguments in ([address], ["--", f"--bundle={address}"]):
            assert "cret" not in ending(error, *arguments)[1]


def test_an_address_that_hides_nothing_is_said_as_it_is(ending):
    for address in ("udp://", "rtsp://host:554"):
        assert (
            ending(BundleError(f"{address} and {address}"), address)[1]
            == f"error: {address} and {address}\n"
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "a", "{}", "--bundle", "b"],
        ["run", "a", "--bundle={}"],
        ["run", "a", "--bundle", "b", "--device", "{}"],
        ["{}"],
        ["export", "{}"],
        ["inspect", "{}"],
        ["verify", "{}"],
        ["bench", "{}"],
        ["train", "{}"],
        ["eval", "{}", "{}"],
        ["data", "check", "{}"],
        ["data", "prepare", "{}", "x", "y"],
        ["data", "prepare", "vkitti2", "{}", "y"],
    ],
)  # fmt: skip
def test_nor_does_any_message_that_there_is(cli, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = cli(*(word.format("rtsp://admin:s3cret@h/x") for word in arguments))
    assert code in (2, 4, 5)
    assert "s3cret" not in stdout + stderr


@pytest.mark.parametrize(
    "start", [("data", "check"), ("train",), ("inspect",), ("bench",)], ids=" ".join
)
def test_an_input_that_cannot_be_read_is_no_wrong_usage(cli, tmp_path, monkeypatch, start):
    monkeypatch.setattr("os.access", lambda *arguments, **options: False)
    assert cli(*start, tmp_path)[0] == 5


@pytest.mark.parametrize(
    "start",
    [("inspect",), ("verify",), ("bench",), ("export",), ("train",), ("data", "check"), ("eval",)],
    ids=" ".join,
)
def test_a_path_that_no_file_system_takes_is_an_unreadable_input(cli, start):
    code, stdout, stderr = cli(*start, "x" * 300, *(["x" * 300] if start == ("eval",) else []))
    assert (code, stdout) == (5, "")
    assert stderr.startswith("error: xxx")


@pytest.mark.parametrize("option", ["--out", "--layers"])
def test_verify_says_before_its_work_that_a_folder_cannot_be_written(
    cli, tmp_path, monkeypatch, option
):
    bundle = write_plain_bundle(tmp_path / "bundle")
    manifest = bundle / "manifest.json"  # layers are compared of half precision alone
    manifest.write_text(manifest.read_text().replace('"precision": "fp32"', '"precision": "fp16"'))
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(
        "e2e_deploy.runtime.checks.verify.verify_bundle", lambda *given: pytest.fail("it began")
    )
    for folder, why in (
        (tmp_path / "file", "it is not a folder"),
        (tmp_path / "file" / "x", "Not a directory"),
    ):
        code, stdout, stderr = cli("verify", bundle, option, folder)
        assert (code, stdout) == (1, "")
        assert stderr == f"error: nothing can be written into {folder}: {why}\n"


@pytest.mark.parametrize("name", ["manifest.json", "model_index.json"])
def test_a_folder_that_may_not_be_looked_into(cli, tmp_path, monkeypatch, name):
    def stat(self, **options):
        if self.name == name:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, **options)

    real = Path.stat
    (tmp_path / name).write_text("{}")
    monkeypatch.setattr(Path, "stat", stat)
    code, stdout, stderr = cli("inspect", tmp_path)
    assert (code, stdout) == (5, "")
    assert stderr.startswith(f"error: {tmp_path / name} cannot be read")
    assert "Permission denied" in stderr
