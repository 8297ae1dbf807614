"""The edges of every script: one line for what a user can put right, tracebacks for all else."""

import errno
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import cv2
import pytest
import torch

from utils import cli
from utils.cli import CheckpointError, DataError, PredictionError, UserError

ROOT = Path(__file__).resolve().parent.parent.parent
NOTHING = Namespace()


def outcome(capsys, raised, args=NOTHING, resume_hint=""):
    """Exit code and the one line of a script whose main raises."""

    def main(args):
        raise raised

    with pytest.raises(SystemExit) as end:
        cli.run(main, args, resume_hint)
    out, err = capsys.readouterr()
    assert not out
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1
    return end.value.code, err.strip()


# -- one line --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("found a cat; name another"), 1, "error: found a cat; name another"),
        (OSError(errno.ENOSPC, "No space left", "data/face"), 1, "No space left: data/face;"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), 1, "denied: data;"),
        (MemoryError(), 1, "out of memory"),
        (KeyboardInterrupt(), 130, "interrupted; nothing finished was lost"),
    ],
)
def test_what_a_user_can_put_right_ends_in_one_line_and_an_exit_code(capsys, raised, code, said):
    assert outcome(capsys, raised)[0] == code
    assert said in outcome(capsys, raised)[1]


def test_a_script_that_ends_well_says_nothing(capsys):
    cli.run(lambda args: None, NOTHING)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_how_to_go_on_is_the_end_of_the_line(capsys, raised):
    hint = "; go on with: python train.py --resume"
    assert outcome(capsys, raised, resume_hint=hint)[1].endswith(hint)


def test_a_message_is_one_line_that_no_terminal_obeys(capsys):
    error = DataError("two\nlines \x1b[31m of \0 a stranger")
    assert error.message.isprintable()
    assert "two lines  [31m of   a stranger" in outcome(capsys, error)[1]


def test_a_programming_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda args: 1 / 0, NOTHING)


# -- memory ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "raised",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: out of memory"),
        cv2.error("OpenCV: (-4:Insufficient memory) Failed to allocate 9 bytes"),
        cv2.error("bad allocation"),
    ],
)
def test_each_library_has_its_way_to_say_that_memory_ran_out(capsys, raised):
    code, line = outcome(capsys, raised)
    assert code == 1
    assert "out of memory" in line
    assert "--batch-size" in line
    assert cli.DEBUG in line


@pytest.mark.parametrize(
    "raised",
    [
        RuntimeError("Unsupported memory_format. Supported are ChannelsLast, Contiguous"),
        RuntimeError("more than one element refers to a single memory location"),
        TypeError("to() received an invalid combination: memory_format"),
        ValueError("out of memory, says something that does not know"),
        KeyError("memory"),
        cv2.error("(-215:Assertion failed) !ssize.empty() in function 'resize'"),
    ],
)
def test_the_word_memory_alone_does_not_hide_a_traceback(raised):
    def main(args):
        raise raised

    with pytest.raises(type(raised)):
        cli.run(main, NOTHING)


def test_what_torch_really_raises_about_memory_formats_keeps_its_traceback():
    def wrong_format(args):
        torch.zeros(3).to(memory_format=torch.channels_last)

    def shared_memory(args):
        torch.zeros(1).expand(4).add_(torch.ones(4))

    for main in (wrong_format, shared_memory):
        with pytest.raises(RuntimeError, match=r"memory|rank 4"):
            cli.run(main, NOTHING)


def test_an_array_that_no_machine_can_hold_is_a_full_memory(capsys):
    def main(args):
        torch.empty(10**15)

    with pytest.raises(SystemExit):
        cli.run(main, NOTHING)
    assert "error: out of memory" in capsys.readouterr().err


# -- tracebacks on request -------------------------------------------------------------------------
@pytest.mark.parametrize(
    "raised", [OSError(errno.ENOENT, "No such file", "x"), MemoryError(), UserError("x")]
)
def test_a_switch_in_the_environment_keeps_every_traceback(monkeypatch, raised):
    def main(args):
        raise raised

    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(type(raised)):
        cli.run(main, NOTHING)


def test_the_line_of_an_oserror_names_the_switch(capsys):
    """The file may be one of the learner's own new line."""

    def main(args):
        Path("no such folder/notes.txt").read_text()

    with pytest.raises(SystemExit):
        cli.run(main, NOTHING)
    line = capsys.readouterr().err
    assert "no such folder/notes.txt" in line
    assert f"{cli.DEBUG}=1" in line
    assert cli.DEBUG == "EASY_HUMAN_DEBUG"


# -- the command that helps ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("error", "command"),
    [
        (UserError("x"), ""),
        (DataError("x"), "python preprocess.py VIDEO"),
        (DataError("x", video="my clip.mp4"), "python preprocess.py 'my clip.mp4'"),
        (CheckpointError("x"), "python train.py"),
        (CheckpointError("x", options="--resume"), "python train.py --resume"),
        (PredictionError("x"), "python inference.py AUDIO"),
    ],
)
def test_each_kind_of_error_knows_the_command_that_helps(error, command):
    assert error.command() == command
    assert error.command(NOTHING) == command
    assert str(error) == (f"x; run: {command}" if command else "x")
    assert error.message == "x"


@pytest.mark.parametrize(
    ("error", "args", "command"),
    [
        (DataError("x"), {"data": "data"}, "python preprocess.py VIDEO"),
        (DataError("x"), {"data": "my data"}, "python preprocess.py VIDEO --data 'my data'"),
        (PredictionError("x"), {"data": "d"}, "python inference.py AUDIO --data d"),
        (CheckpointError("x"), {"checkpoints": "checkpoints"}, "python train.py"),
        (CheckpointError("x"), {"checkpoint": "checkpoints/best.pth"}, "python train.py"),
        (CheckpointError("x"), {"checkpoint": "a b/x.pth"}, "python train.py --checkpoints 'a b'"),
        (
            CheckpointError("x", options="--resume --lr 0.1"),
            {"data": "d", "checkpoints": "c"},
            "python train.py --data d --checkpoints c --resume --lr 0.1",
        ),
    ],
)
def test_the_command_has_the_folders_of_this_call_once(capsys, error, args, command):
    _, line = outcome(capsys, error, Namespace(**args))
    assert line == f"error: x; run: {command}"


# -- options ---------------------------------------------------------------------------------------
def test_the_common_options_have_one_default():
    parser = cli.parser("a script", "data", "checkpoint", "device")
    args = parser.parse_args([])
    assert args == Namespace(data="data", checkpoint="checkpoints/best.pth", device="auto")
    assert CheckpointError("x").command(args) == "python train.py"


def test_options_cannot_be_shortened(capsys):
    parser = cli.parser("a script", "data")
    with pytest.raises(SystemExit):
        parser.parse_args(["--dat", "x"])
    assert "--dat" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [int, float])
@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", ""])
def test_a_positive_number_is_finite_and_above_0(kind, text, capsys):
    assert cli.positive(kind)("3") == 3
    parser = cli.parser("a script")
    parser.add_argument("--n", type=cli.positive(kind))
    with pytest.raises(SystemExit):
        parser.parse_args([f"--n={text}"])
    assert f"positive {kind.__name__}" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "heard"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_first_one_speaks(monkeypatch, capsys, rank, heard):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    cli.say("hello")
    assert capsys.readouterr() == ("", "hello\n" if heard else "")


# -- one writer ------------------------------------------------------------------------------------
WRITER = """
import sys
from argparse import Namespace
from utils import cli
def main(args):
    with cli.write_lock(sys.argv[1]):
        print("writing", flush=True)
        sys.stdin.read()
cli.run(main, Namespace())
"""


def writer(folder):
    """Start another process that holds `folder` until its input is closed."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_second_writer_is_refused_in_one_line_and_admitted_afterwards(tmp_path):
    with cli.write_lock(tmp_path / "new"):
        second = writer(tmp_path / "new")
        out, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert not out
    assert err.count("\n") == 1
    assert "another run" in err
    third = writer(tmp_path / "new")
    assert third.communicate(timeout=60) == ("writing\n", "")
    assert third.returncode == 0


def test_a_writer_that_was_killed_does_not_lock_the_folder(tmp_path):
    other = writer(tmp_path)
    assert other.stdout.readline() == "writing\n"
    with pytest.raises(UserError, match="another run"), cli.write_lock(tmp_path):
        pass
    other.kill()
    other.communicate(timeout=60)
    with cli.write_lock(tmp_path):
        assert tmp_path.is_dir()


def test_a_file_where_the_folder_should_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"), cli.write_lock(tmp_path / "file"):
        pass


def test_an_error_that_names_no_file_names_the_one_that_was_written(tmp_path):
    with pytest.raises(OSError, match="full") as error, cli.write_lock(tmp_path):
        raise OSError(errno.ENOSPC, "full")
    assert error.value.filename == str(tmp_path)
    with pytest.raises(OSError, match="full") as error, cli.naming_errors("a"):
        raise OSError(errno.ENOSPC, "full", "b")
    assert error.value.filename == "b"
