import stat

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.files import whole_file


def test_the_file_appears_at_the_end_with_ordinary_rights(tmp_path):
    path = tmp_path / "new" / "a.b.txt"
    with whole_file(path) as partial:
        assert partial.suffix == ".txt"
        assert partial.parent == path.parent
        partial.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError("x"), KeyboardInterrupt()])
def test_an_unfinished_file_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), whole_file(path) as partial:
        partial.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.bin"
    path.write_text("old")
    with (
        full_disk(1000),
        pytest.raises(E2EDeployError, match="a.bin could not be written: File too large"),
        whole_file(path) as partial,
    ):
        partial.write_bytes(bytes(5000))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(E2EDeployError, match="could not be written"),
        whole_file(tmp_path / "file" / "a.txt"),
    ):
        pytest.fail("the block must not run")


def test_a_folder_without_write_permission(tmp_path, monkeypatch):
    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", denied)  # root may write everywhere
    with pytest.raises(E2EDeployError, match="Permission denied"), whole_file(tmp_path / "a.txt"):
        pytest.fail("the block must not run")
