import errno
import os
import subprocess
import sys
import threading

import pytest

from ed2rec.errors import ConfigError
from ed2rec.files import check_file, replace_file


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


def test_a_pipe_is_written_into_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    read = []
    for name in ("pipe", "link"):
        check_file(tmp_path / name)
        reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()), daemon=True)
        reader.start()
        with replace_file(tmp_path / name) as file:
            file.write_text(name)
        reader.join(10)
    assert read == ["pipe", "link"] and (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="no /dev")
def test_null_takes_anything_and_stdout_shows_it_even_where_it_is_a_file(tmp_path):
    (tmp_path / "null").symlink_to("/dev/null")  # root would replace the device itself
    with replace_file(tmp_path / "null") as file:
        file.write_text("nothing")
    assert (tmp_path / "null").is_symlink() and (tmp_path / "null").is_char_device()
    code = "from ed2rec.files import replace_file\nwith replace_file('/dev/stdout') as file: file.write_text('shown')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"shown"
    (tmp_path / "log").write_text("before ")
    with (tmp_path / "log").open("a") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
    assert (tmp_path / "log").read_text() == "before shown" and os.path.islink("/dev/stdout")


def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "metrics.json").symlink_to("disk/m.json")  # which is not there yet
    for text in ("one", "two"):
        with replace_file(tmp_path / "metrics.json") as file:
            file.write_text(text)
        assert (tmp_path / "metrics.json").is_symlink() and (tmp_path / "disk/m.json").read_text() == text
    assert not (tmp_path / "disk/m.json").is_symlink()
