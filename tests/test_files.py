import errno
import os

import pytest

from ed2rec.errors import ConfigError
from ed2rec.files import replace_file


def test_a_file_is_replaced_only_by_a_finished_one(tmp_path):
    target = tmp_path / "metrics.json"
    with replace_file(target) as file:
        file.write_text("one")
    with pytest.raises(ConfigError, match="No space left on device"), replace_file(target) as file:
        file.write_text("tw")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ZeroDivisionError), replace_file(target) as file:
        file.write_text("t")
        raise ZeroDivisionError
    assert target.read_text() == "one" and [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    with pytest.raises(ConfigError, match="it is a folder"), replace_file(tmp_path):
        pass
