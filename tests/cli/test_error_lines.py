"""What libraries raise over a setting becomes one line with the setting's full name; everything else passes."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.fabric.utilities.exceptions import MisconfigurationException

from arcface_pl.cli import main
from arcface_pl.cli.error_lines import ConstructorError, library_errors, settings_errors
from arcface_pl.cli.parser_errors import plain_types
from arcface_pl.errors import CheckpointError, DataError, SettingsError, UserError, file_errors

Make = Callable[..., Any]


def parse(*args: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--at.count", type=int)
    parser.add_argument("--at.share", type=float | None)
    parser.add_argument("--at.mode", type=Literal["min", "max"])
    parser.add_argument("--at.names", type=list[int])
    parser.add_argument("--needed", type=int, required=True)
    with settings_errors():
        parser.parse_args([*args])


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--needed=1", "--at.count=x"], "at.count: got x; expected int"),
        (["--needed=1", "--at.count=1.5"], "at.count: got 1.5; expected int"),
        (["--needed=1", "--at.share=much"], "at.share: got much; expected float, null"),
        (["--needed=1", "--at.mode=mean"], "at.mode: got mean; expected min, max"),
        (["--needed=1", "--at.names=[1, a]"], "at.names: got a; expected int"),
        (["--needed=1", "--at.cuont=1"], "at.cuont: unknown; --help_all lists every setting"),
        ([], "needed: not set; give --needed"),
    ],
)
def test_jsonargparse_reports_become_one_line(args: list[str], line: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(*args)
    assert str(caught.value) == line
    assert caught.value.__cause__ is not None  # --traceback shows where


@pytest.mark.parametrize(
    ("raised", "line"),
    [
        ("margin: got 9; expected less", "model.head.margin: got 9; expected less"),
        ("model.head.margin: got 9", "model.head.margin: got 9"),
        ("margin must be less than 4", "model.head.margin must be less than 4"),
        ("bad value 64.0", "model.head.scale: bad value 64.0"),  # the only argument that has it
        ("bad scale", "model.head.scale: got 64.0; bad scale"),
        ("bad value 9", "model.head: bad value 9"),  # two have it
        ("nothing that is known", "model.head: nothing that is known"),
        ("too large\nException raised from there at x.cpp:1\nframe #0", "model.head: too large"),
        ("", "model.head: ValueError"),
    ],
)
def test_an_argument_is_named_in_full(raised: str, line: str) -> None:
    with pytest.raises(SettingsError) as caught, settings_errors("model.head", {"margin": 9, "k": 9, "scale": 64.0}):
        raise ValueError(raised)
    assert str(caught.value) == line


def test_a_settings_error_passes_unchanged_also_in_disguise() -> None:
    given = SettingsError("its own words")
    for body in (given, ConstructorError()):
        with pytest.raises(SettingsError) as caught, settings_errors("model"), library_errors(None):
            raise body from given
        assert caught.value is given
    with pytest.raises(KeyboardInterrupt), settings_errors("model"), library_errors(None):
        raise KeyboardInterrupt


def test_only_what_a_library_says_of_settings_becomes_a_line() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    line = r"^Invalid learning rate: -1 \(--traceback shows where\)$"
    with pytest.raises(SettingsError, match=line), library_errors(None):
        torch.optim.SGD([weight], lr=-1)
    with pytest.raises(SettingsError, match="two things"), library_errors(None):
        raise MisconfigurationException("two things exclude one another")
    for ours in (ValueError("Invalid learning rate: -1"), LookupError("x"), DataError("no images")):
        with pytest.raises(type(ours)) as caught, library_errors(None):
            raise ours
        assert caught.value is ours


def test_a_checkpoint_is_named_where_its_content_does_not_fit(
    tmp_path: Path, make_trainer: Make, tiny_module: Make, tiny_loader: Make
) -> None:
    first = make_trainer(max_epochs=1)
    first.fit(tiny_module(), tiny_loader())
    path = tmp_path / "other.ckpt"
    first.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["optimizer_states"][0]["param_groups"].pop()
    torch.save(content, path)
    with pytest.raises(CheckpointError) as caught, library_errors(path):
        make_trainer(max_epochs=2).fit(tiny_module(), tiny_loader(), ckpt_path=path, weights_only=True)
    assert str(caught.value).startswith(f"{path}: what it holds does not fit: loaded state dict has a different number")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", ["ENOENT", "EACCES", "ENOSPC", "EROFS", "ENAMETOOLONG", "EISDIR", "EDQUOT"])
def test_what_a_user_can_mend_of_a_file_is_one_line(code: str) -> None:
    number = getattr(errno, code)
    for name, start in (("some/file", "some/file"), (None, "a file of the run")):
        with pytest.raises(UserError) as caught, file_errors():
            raise OSError(number, os.strerror(number), name)
        assert str(caught.value) == f"{start}: {os.strerror(number)}"


def test_no_place_for_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "nowhere")
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["nowhere"])
    monkeypatch.setattr(tempfile, "tempdir", None)
    with (
        pytest.raises(UserError, match="^[$]TMPDIR: got 'nowhere'; expected a folder"),
        file_errors(),
    ):
        tempfile.mkdtemp()


def test_other_errors_of_the_system_pass() -> None:
    for error in (OSError(errno.EBADF, "bad descriptor"), OSError("without a code"), BrokenPipeError(errno.EPIPE, "p")):
        with pytest.raises(OSError, match="bad|without|p") as caught, file_errors():
            raise error
        assert caught.value is error


@pytest.mark.parametrize(
    ("python", "config"),
    [
        ("<class 'float'>", "float"),
        ("<class 'torch.optim.Adam'>", "torch.optim.Adam"),
        ("typing.Literal['min', 'max'], NoneType", "min, max, null"),
        ("typing.Any", "Any"),
    ],
)
def test_types_read_as_in_a_config(python: str, config: str) -> None:
    assert plain_types(python) == config


@pytest.mark.parametrize("named", ["Poly", "my.own.Poly"])
def test_what_builds_optimizers_and_schedules_is_named(named: str, capsys: pytest.CaptureFixture) -> None:
    for setting, accepted in (
        ("model.optimizer", "an optimizer of torch.optim by name, such as AdamW"),
        ("model.lr_schedule", "Constant, Cosine, OneCycle, WarmUp, a schedule of torch.optim.lr_scheduler by name"),
    ):
        with pytest.raises(SystemExit):
            main(["fit", "--data.dataset", "digits", f"--{setting}", named, "--print_config"])
        assert f"{setting}: got {named}; expected {accepted}" in capsys.readouterr().err
