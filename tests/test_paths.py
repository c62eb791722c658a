"""Where a user's folders are on each system."""

import pytest

from causvid_cli import paths


@pytest.mark.parametrize(
    ("platform", "variables", "folder"),
    [
        ("linux", {}, "{home}/.local/share/causvid/models"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/causvid/models"),
        ("darwin", {}, "{home}/Library/Application Support/causvid/models"),
        ("linux", {"CAUSVID_MODELS": "~/mine"}, "{home}/mine"),
    ],
)
def test_the_users_models_are_where_each_system_keeps_such_things(platform, variables, folder, tmp_path, monkeypatch):
    for name in ("CAUSVID_MODELS", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(paths.sys, "platform", platform)
    assert str(paths.models_folder()) == folder.format(home=tmp_path)
