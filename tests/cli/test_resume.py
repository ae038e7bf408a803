"""The settings that a checkpoint brings along: of its run where it lies there, else its own."""

from pathlib import Path
from typing import Any

import pytest
import torch

from arcface_pl import ArcFaceModule, CosFaceHead, FastCNN, MNISTDataModule
from arcface_pl.checkpoints.reading import CheckpointFile
from arcface_pl.checkpoints.runs import MARK
from arcface_pl.cli.config import read_config
from arcface_pl.cli.layers import import_class, merge
from arcface_pl.cli.resume import resumed_run, settings_of_checkpoint, settings_of_run
from arcface_pl.cli.saved_config import first_line
from arcface_pl.errors import CheckpointError


@pytest.fixture
def found(tmp_path: Path, make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> CheckpointFile:
    """A run's folder with config.yaml, and the checkpoint that it saved after one step."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    module = ArcFaceModule(FastCNN(8, width=6), CosFaceHead(8, 10, margin=0.2), channels_last=False)
    data = MNISTDataModule(dataset="digits", batch_size=50, seed=7)
    trainer = make_trainer(max_steps=1, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    folder = tmp_path / "lightning_logs" / "version_0"
    path = folder / "checkpoints" / "last.ckpt"
    trainer.save_checkpoint(path)
    content = torch.load(path, weights_only=True)
    content["run"] = "abc"
    (folder / MARK).write_text("abc", encoding="utf-8")
    text = "data: {class_path: MNISTDataModule, init_args: {batch_size: 50, allow_inexact_resume: true}}\n"
    (folder / "config.yaml").write_text(first_line("abc") + text, encoding="utf-8")
    return CheckpointFile(path, content)


def built(node: dict[str, Any]) -> Any:
    cls = import_class(node["class_path"])
    assert cls is not None
    return cls(**node["init_args"])


def test_a_run_is_continued_where_its_folder_and_config_are_its_own(found: CheckpointFile, tmp_path: Path) -> None:
    folder = found.path.parent.parent
    run = resumed_run(found)
    assert run is not None
    assert (run.folder, run.run_id) == (folder, "abc")
    config = folder / "config.yaml"
    written = config.read_bytes()
    for other in (first_line("xyz").encode() + written, b"\xff\xfe", b""):
        config.write_bytes(other)
        assert resumed_run(found) is None
    config.unlink()
    assert resumed_run(found) is None
    config.write_bytes(written)
    assert resumed_run(CheckpointFile(tmp_path / "checkpoints" / "last.ckpt", found.content)) is None  # a copy
    assert resumed_run(CheckpointFile(found.path, {**found.content, "run": "xyz"})) is None


def test_a_run_has_the_settings_of_its_config_without_the_permission_once_given(found: CheckpointFile) -> None:
    expected = read_config(found.path.parent.parent / "config.yaml")
    assert expected["data"]["init_args"].pop("allow_inexact_resume") is True
    assert settings_of_run(found) == expected


def test_a_copy_has_the_settings_it_was_trained_with(found: CheckpointFile) -> None:
    settings = settings_of_run(CheckpointFile(Path("copy.ckpt"), found.content))
    model = settings["model"]
    for node, role in ((model["backbone"], "backbone"), (model["head"], "head")):
        state = {name.removeprefix(f"{role}."): value for name, value in found.content["state_dict"].items()}
        part = built(node)
        part.load_state_dict({name: state[name] for name in part.state_dict()})
        assert role == "backbone" or part.margin == 0.2
    assert model["channels_last"] is False
    assert settings["seed_everything"] == 9
    data = built(settings["data"])
    assert (data.batch_size, data.seed, data.dataset_name) == (50, 7, "digits")
    assert import_class(model["optimizer"]["class_path"]) in vars(torch.optim).values()
    assert merge(settings, {}) == settings  # plain values that a config may hold


def test_data_are_those_of_training_and_not_what_auto_finds_here(found: CheckpointFile) -> None:
    found.content["data"] |= {"kwargs": {"dataset": "auto"}, "dataset_name": "kmnist"}
    assert settings_of_checkpoint(found)["data"]["init_args"]["dataset"] == "kmnist"


@pytest.mark.parametrize("role", ["backbone", "head"])
def test_a_network_from_elsewhere_keeps_a_bare_name_that_imports_nothing(found: CheckpointFile, role: str) -> None:
    found.content["hyper_parameters"][role] = {"name": "os.system", "kwargs": {}}
    assert settings_of_checkpoint(found)["model"][role] == {"class_path": "system", "init_args": {}}


def test_a_data_module_from_elsewhere_is_left_to_flags_or_named(found: CheckpointFile) -> None:
    found.content["data"] |= {"name": "os.system", "kwargs": {}}
    with pytest.raises(CheckpointError, match="its data 'os.system' is no class of arcface_pl; name yours with --data"):
        settings_of_checkpoint(found)
    for left in (settings_of_checkpoint(found, strict=False), settings_of_checkpoint(found, other_data=True)):
        assert "data" not in left
