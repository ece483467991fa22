"""Generated folders are replaced whole or not at all, and one run at a time touches them."""

import errno
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from kontract.cli.toolchain import checkout as module
from kontract.cli.toolchain.checkout import Checkout, digest, write_atomically
from kontract.cli.toolchain.problem import Problem


@pytest.fixture
def here(tmp_path):
    return Checkout(tmp_path)


def replace(here, content, *, stamp="made from this", fail=None):
    with here.replacing(here.root / "folder", "folder", stamp) as work:
        (work / "file").write_text(content)
        if fail:
            raise fail


def test_a_checkout_is_found_from_any_folder_in_it(tmp_path):
    (tmp_path / "wrangler.toml").touch()
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src" / "deep").mkdir(parents=True)

    assert Checkout.find(tmp_path / "src" / "deep").root == tmp_path.resolve()


def test_outside_a_checkout_the_person_is_told_where_to_go(tmp_path):
    with pytest.raises(Problem, match="inside the folder that you cloned"):
        Checkout.find(tmp_path)


def test_a_replaced_folder_is_whole_and_stamped(here):
    replace(here, "old", stamp="one")
    replace(here, "new", stamp="two")

    assert (here.root / "folder" / "file").read_text() == "new"
    assert here.is_fresh("folder", "two")
    assert not here.is_fresh("folder", "one")
    assert list((here.state / "tmp").iterdir()) == []


@pytest.mark.parametrize("fail", [KeyboardInterrupt(), Problem("npm", "failed"), RuntimeError()])
def test_a_run_that_is_cut_off_changes_nothing(here, fail):
    replace(here, "old")

    with pytest.raises(type(fail)):
        replace(here, "half", stamp="another", fail=fail)

    assert (here.root / "folder" / "file").read_text() == "old"
    assert here.is_fresh("folder", "made from this")
    assert list((here.state / "tmp").iterdir()) == []


def test_a_full_disk_is_a_sentence_and_changes_nothing(here):
    replace(here, "old")

    with pytest.raises(Problem, match="is full"):
        replace(here, "half", fail=OSError(errno.ENOSPC, "No space left on device"))

    assert (here.root / "folder" / "file").read_text() == "old"


def test_too_little_space_is_found_before_anything_is_written(here, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=50 * 2**20))

    with pytest.raises(Problem, match="Only 50 MB are free"):
        replace(here, "new")

    assert not (here.root / "folder").exists()


def test_what_a_killed_set_up_left_is_removed_by_the_next(here):
    (here.state / "tmp" / "node_modules-abc").mkdir(parents=True)

    with here.setting_up(lambda _text: None):
        assert not (here.state / "tmp").exists()


def test_a_second_dev_in_the_same_checkout_is_told_so(here):
    second = pytest.raises(Problem, match=f"already running in this checkout .process {os.getpid()}")
    with here.running(), second, here.running():
        pass
    with here.running():  # and after the first has ended it may
        pass


def test_the_lock_of_a_killed_run_is_waited_for_while_its_reaper_works(here):
    """The reaper holds the descriptor of the lock; the pid in the file belongs to a process that is gone."""
    with here.running() as lock:
        reaper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"], pass_fds=[lock])
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        (here.state / "dev.lock").write_text(str(gone.pid))

    with here.running():
        assert reaper.wait(0.5) == 0


def test_a_file_is_written_whole_with_its_mode_from_the_start(tmp_path):
    target = tmp_path / "secret"
    target.write_text("old")
    target.chmod(0o644)

    write_atomically(target, "new", 0o600)

    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_text("old")

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fdopen", full)
    with pytest.raises(Problem, match="is full"):
        write_atomically(target, "new")

    assert target.read_text() == "old"


def test_a_digest_tells_contents_and_their_order_apart(tmp_path):
    (tmp_path / "a").write_text("1")

    assert digest(tmp_path / "a", "2") == digest("1", "2")
    assert len({digest("1", "2"), digest("2", "1"), digest("12"), digest(tmp_path / "missing", "2")}) == 4
