"""What commands say of a native library that they cannot use."""

import pytest

from pmsm_cli.runtime import library

WARNING = "warning: the native library is left aside, which takes longer: "


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """A file in the library's place, looked at afresh."""
    path = tmp_path / f"_native{library.EXTENSION_SUFFIXES[0]}"
    path.write_bytes(b"not a library")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    library._status_beside_this_module.cache_clear()
    yield path
    library._status_beside_this_module.cache_clear()


@pytest.mark.parametrize("command", ["run", "eval", "report"])
def test_one_that_is_there_but_of_no_use_is_warned_of(command, pmsm, checkpoint, pictures, beside):
    images = [f"--data={pictures}"] if command == "report" else [pictures]
    shown = pmsm(command, checkpoint, *images)
    assert shown.code == 0
    assert shown.err.count(f"{WARNING}{beside}: cannot be loaded: ") == 1


def test_one_that_is_not_there_is_not(pmsm, checkpoint, pictures, beside):
    beside.unlink()
    assert WARNING not in pmsm("run", checkpoint, pictures).err


def test_commands_that_need_none_say_nothing(pmsm, beside):
    assert WARNING not in pmsm("run", "--help").err
