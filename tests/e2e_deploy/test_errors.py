import pytest

import e2e_deploy.cli as cli_module
from e2e_deploy import errors
from e2e_deploy.packages import require

CODES = {
    errors.E2EDeployError: 1,
    errors.UsageError: 2,
    errors.ParityError: 3,
    errors.UnavailableError: 4,
    errors.PlanMismatchError: 4,
    errors.InputError: 5,
    errors.CheckpointError: 5,
    errors.BundleError: 5,
    errors.PlanDamagedError: 5,
    errors.SourceError: 5,
    errors.DataError: 5,
    KeyboardInterrupt: 130,
    OSError: 1,
}


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_every_error_is_one_line_and_its_exit_code(kind, cli, monkeypatch):
    def fail(*args, **kwargs):
        raise kind("something is wrong:\n  with two lines")

    monkeypatch.setattr(cli_module.group, "main", fail)
    code, out, err = cli("verify", "bundle")
    assert (code, out) == (CODES[kind], "")
    assert err.count("\n") == 1
    assert kind is KeyboardInterrupt or err == "error: something is wrong: with two lines\n"


def test_the_tree_is_complete():
    declared = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, errors.E2EDeployError)
    }
    assert declared <= set(CODES)


def test_a_missing_package_names_its_extra():
    with pytest.raises(
        errors.UnavailableError,
        match=r"'no_such_package' is not installed: pip install 'e2e-deploy\[export\]'",
    ):
        require("no_such_package.part", "export")


def test_a_package_that_does_not_load_says_why(tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text("raise ImportError('libfoo.so is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(errors.UnavailableError, match="does not load .libfoo.so is missing"):
        require("broken_package", "tensorrt")
