import logging
import sys
import warnings

import pytest

from causvid_cli.errors import ModelError
from causvid_cli.extras import require


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ModelError) as raised:
        require("json", "ftfy", extra="wan", what="this")
    assert str(raised.value) == ("this needs the package ftfy; try pip install '.[wan]' in causvid's source folder")


def test_a_package_that_a_package_needs_is_the_one_that_is_named(monkeypatch, tmp_path):
    (tmp_path / "needy.py").write_text("import absent_one.part\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=r"^that needs the package absent_one; try pip install '\.\[lora\]'"):
        require("needy", extra="lora", what="that")


def test_packages_are_loaded_in_silence_and_loggers_speak_again(monkeypatch, tmp_path, caplog):
    (tmp_path / "noisy.py").write_text(
        "import logging, warnings\nlogging.getLogger('noisy').error('hear me')\nwarnings.warn('and me')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require("noisy", extra="quantize", what="this")
    assert "noisy" in sys.modules
    assert not caplog.records
    logging.getLogger("after").warning("heard")
    assert [record.message for record in caplog.records] == ["heard"]
