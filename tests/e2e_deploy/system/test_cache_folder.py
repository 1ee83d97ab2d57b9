import os

import pytest

from e2e_deploy.errors import E2EDeployError
from e2e_deploy.system.cache_folder import private_folder


def test_it_is_this_users_alone(tmp_path):
    folder = tmp_path / "a" / "b"
    assert private_folder(folder).stat().st_mode & 0o777 == 0o700
    folder.chmod(0o777)
    assert private_folder(folder).stat().st_mode & 0o777 == 0o700


def test_links_and_others_folders_are_refused(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(E2EDeployError, match="is a link or belongs to another user"):
        private_folder(tmp_path / "link")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(E2EDeployError, match="is a link or belongs to another user"):
        private_folder(tmp_path / "real")
    (tmp_path / "file").write_text("")
    with pytest.raises(E2EDeployError, match="cannot be used"):
        private_folder(tmp_path / "file" / "cache")
