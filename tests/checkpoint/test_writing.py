"""Files are written whole or not at all, and nothing is left lying about."""

import errno
import os
from pathlib import Path

import pytest

from pmsm_cli.checkpoint import file as checkpoint_file
from pmsm_cli.checkpoint.file import check_writable, write_file, write_files
from pmsm_cli.errors import SetupError


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "out.onnx"
    path.write_bytes(b"old")
    return path


def failing(error: BaseException):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_a_file_is_written_with_its_bytes(tmp_path: Path):
    write_file(tmp_path / "new.bin", b"\x00\xff")
    assert (tmp_path / "new.bin").read_bytes() == b"\x00\xff"


def test_text_is_written_in_utf_8(tmp_path: Path):
    write_file(tmp_path / "new.md", "Größe 犬 \udcff\n")  # the last: a byte of a name that is no text
    assert (tmp_path / "new.md").read_bytes() == "Größe 犬 \\udcff\n".encode()


def test_a_file_replaces_the_one_that_was_there(target: Path):
    write_file(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(target.parent) == [target.name]


def test_a_file_has_the_usual_rights_of_a_new_one(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "new.bin", b"")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "new.bin").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "plain").stat().st_mode & 0o777 == 0o640


def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(target: Path, tmp_path: Path):
    link = tmp_path / "elsewhere" / "link.onnx"
    link.parent.mkdir()
    link.symlink_to(target)
    write_file(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(link.parent) == ["link.onnx"]


@pytest.mark.parametrize("stage", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_no_other(target: Path, monkeypatch: pytest.MonkeyPatch, stage):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(checkpoint_file.os, stage, failing(full))
    with pytest.raises(SetupError) as caught:
        write_file(target, b"new")
    assert str(caught.value) == f"{target}: cannot be written (No space left on device)"
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == [target.name]


@pytest.mark.parametrize("stage", ["fsync", "replace", "chmod"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interruption_leaves_the_old_file_and_no_other(target: Path, monkeypatch: pytest.MonkeyPatch, stage, error):
    monkeypatch.setattr(checkpoint_file.os, stage, failing(error()))
    with pytest.raises(error):
        write_file(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(target.parent) == [target.name]


def test_of_two_files_none_is_written_when_the_second_finds_no_room(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    sizes = []

    def room_for_one(descriptor: int) -> None:
        sizes.append(os.fstat(descriptor).st_size)
        if len(sizes) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_file.os, "fsync", room_for_one)
    second = tmp_path / "report.md"
    with pytest.raises(SetupError) as caught:
        write_files({target: b"new", second: "report"})
    assert str(caught.value) == f"{second}: cannot be written (No space left on device)"
    assert sizes == [3, 6]
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [target.name]


def test_several_files_are_written_together(tmp_path: Path):
    write_files({tmp_path / "a": b"1", tmp_path / "b": "2"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"1", "b": b"2"}


# Finding out beforehand


def refusal(path: Path) -> str:
    with pytest.raises(SetupError) as caught:
        check_writable(path)
    return str(caught.value)


def test_a_path_that_can_be_written_is_left_as_it_was(target: Path, tmp_path: Path):
    check_writable(target)
    check_writable(tmp_path / "new.onnx")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == [target.name]


def test_a_plain_name_is_written_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    check_writable(Path("new.onnx"))
    write_file(Path("new.onnx"), b"new")
    assert (tmp_path / "new.onnx").read_bytes() == b"new"


def test_a_folder_is_refused(tmp_path: Path):
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; name a file"


def test_a_missing_folder_is_refused(tmp_path: Path):
    folder = tmp_path / "a" / "b"
    assert refusal(folder / "x.onnx") == f"{folder}: the folder to write to does not exist\nhint: mkdir -p {folder}"


def test_a_device_is_refused_and_left_alone():
    assert refusal(Path("/dev/null")) == "/dev/null: is a device or a pipe; name an ordinary file"
    assert Path("/dev/null").is_char_device()


def test_a_read_only_file_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoint_file.os, "access", lambda path, mode: False)  # root may write anything
    assert refusal(target) == f"{target}: cannot be written (it is read-only)\nhint: name another file"


def test_a_folder_that_takes_no_files_is_refused(target: Path, monkeypatch: pytest.MonkeyPatch):
    read_only = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(checkpoint_file.tempfile, "NamedTemporaryFile", failing(read_only))
    assert refusal(target) == f"{target}: cannot be written (Read-only file system)"


def test_a_name_too_long_for_the_disk_is_refused(tmp_path: Path):
    path = tmp_path / ("x" * 300)
    assert refusal(path) == f"{path}: cannot be written (File name too long)"
