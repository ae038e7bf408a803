"""An error names what was typed, and what to type instead."""

from contextlib import suppress

import pytest
import yaml

from arcface_pl.cli import main
from arcface_pl.cli.layers import each_setting

SAID = {
    "--model.lr_schedule=MultiStepLR --model.lr_schedule.milestones=3": "schedule.milestones: got 3; expected list",
    "--model.lr_schedule=StepLR --model.lr_schedule.milestones=[3]": "unknown (StepLR accepts step_size, gamma)",
    "--model.lr_schedule=LambdaLR": "model.lr_schedule.lr_lambda: not set; give --model.lr_schedule.lr_lambda",
    "--model.head.num_classes=5": "model.head.num_classes: got 5; expected 10, that of the data. Leave it out",
    "--model.head_sample_rate=0.5": "model.head_sample_rate: got 0.5; expected 1.0 without update_head_in_backward",
    "--model.update_head_in_backward=sgd": "model.head_lr: not set; expected a rate together with",
    "--model.update_head_in_backward=true --model.optimizer=Adagrad": "optimizer: got 'Adagrad'; expected SGD, Adam or",
    "--model.update_head_in_backward=true --gradient_clip_val=1": "trainer.gradient_clip_val: got 1; expected null",
    "--trainer.callbacks+=RunCheckpoint --trainer.callbacks.signals=[KILL]": "callbacks.signals: got 'KILL'",
    "--trainer.callbacks+=LambdaCallback --trainer.callbacks.on_fit_start=print": "on_fit_start: got print; expected",
    "--trainer.callbacks+=RunCheckpoint --trainer.callbacks.signals=[15]": "callbacks.signals: got 15; expected str",
    "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.train_time_interval={seconds:1}": (
        "trainer.callbacks.train_time_interval: got {seconds:1}; expected a string with form"
    ),
    "--trainer.callbacks+=ModelCheckpoint --trainer.callbacks.save_top_kk=1": "ModelCheckpoint accepts",
    "--trainer.callbacks+=ExponentialMovingAverage --trainer.callbacks.decay=2": "callbacks.decay: got 2",
    "--min_epochs=20": "trainer.min_epochs: got 20; expected at most trainer.max_epochs, 10",
    "--max_steps=5 --min_steps=6": "trainer.min_steps: got 6; expected at most trainer.max_steps, 5",
    "--data.classes=[1,2] --model.head.scale=adacos": "model.head.scale: got 'adacos'; expected a number where",
    "--model.optimizer.lr=0,001": "model.optimizer.lr: got 0,001; expected float",
    "--model.optimizer=torch.optim.Nope": "model.optimizer: got torch.optim.Nope; expected an optimizer",
    "--data.seed=2020-01-01": "data.seed: got 2020-01-01; expected int, null",
    "--profiler=x": "trainer.profiler: got x; When passing string value",
    "--data.transform=[1]": "data.transform: got 1; expected the name or full path of a class",
    "--barebones=true --trainer.callbacks=null": "got true; expected false, or --logger false --enable",
}


@pytest.mark.parametrize("flags", SAID)
def test_the_setting_that_was_typed(flags: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--data.dataset", "digits", "--accelerator", "cpu", *flags.split(), "--print_config"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert SAID[flags] in error, error


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_setting_is_named_with_the_text_that_was_typed(capsys: pytest.CaptureFixture) -> None:
    fit = ["fit", "--data.dataset", "digits", "--accelerator", "cpu"]
    main([*fit, "--print_config"])
    names = [name for name, _ in each_setting(yaml.safe_load(capsys.readouterr().out))]
    refused = 0
    for name in names:
        if name.startswith("trainer.callbacks"):
            continue
        with suppress(SystemExit):  # not raised where any text is accepted
            main([*fit, f"--{name}=no such thing", "--print_config"])
        error = capsys.readouterr().err
        if not error:
            continue
        refused += 1
        assert error.count("\n") == 1
        assert f"error: {name}" in error
        assert "no such thing" in error
        assert "MNISTDataModule" not in error
        assert "Adam;" not in error
    assert refused > 90
