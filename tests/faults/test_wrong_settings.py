"""Wrong values for every setting there is: exit code 2 and one line that names it, or a run that works."""

import inspect
import random
from pathlib import Path
from typing import Any

import pytest

from arcface_pl.cli import main
from arcface_pl.cli.config import BASE_CONFIG, read_config
from arcface_pl.heads import HEADS

NEVER_RIGHT = (".nan", "-.inf", "1_0", "[1, x]", "{a: 1}", "[", "!!python/object/apply:os.system ['true']", "")
FOR_A_NUMBER = ("word", "'\uff11'", "'1'", "true", ".inf", "1e400", "-1e30", "[]", "'1_0'")


def scalars(node: Any, place: str) -> list[str]:
    """Full names of the plain settings of a base config, callbacks left out."""
    names = []
    for name, value in (node.get("init_args", node) if isinstance(node, dict) else {}).items():
        if isinstance(value, dict):
            names += scalars(value, f"{place}.{name}")
        elif name not in ("callbacks", "class_path"):
            names.append(f"{place}.{name}")
    return names


BASE = read_config(BASE_CONFIG)
PLAIN = ["seed_everything", *(name for part in ("trainer", "model", "data") for name in scalars(BASE[part], part))]
PLAIN.remove("model.teacher")  # any text: it is read when training begins, and not where a trained model is used
OF_HEADS = [(head, name) for head, cls in HEADS.items() for name in inspect.signature(cls).parameters]
# A folder or file may be called [ or .nan
ARE_TEXT = ("name", "data_dir", "default_root_dir", "save_dir", "model_registry", "init_from")
NAMES_OR_LISTS = ("scores", "name", "data_dir", "default_root_dir", "save_dir", "model_registry", "classes", "profiler")


def check_refused(capsys: pytest.CaptureFixture, args: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--accelerator", "cpu", *args, "--print_config"])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("arcface-pl fit: error: ")
    assert named in captured.err, captured.err
    assert captured.out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_no_setting_takes_nonsense(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    takes_text = name.rpartition(".")[2] in NAMES_OR_LISTS or name.endswith("held_out_classes")
    values = ("1_0", "") if name.rpartition(".")[2] in ARE_TEXT else NEVER_RIGHT
    for value in (item for item in values if not (takes_text and item == "[1, x]")):
        check_refused(capsys, [f"--{name}={value}"], name)


@pytest.mark.slow
@pytest.mark.parametrize(("head", "name"), OF_HEADS, ids=[f"{head}.{name}" for head, name in OF_HEADS])
def test_no_setting_of_a_head_takes_nonsense(head: str, name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    values = NEVER_RIGHT if name == "use_bias" else (*NEVER_RIGHT, *FOR_A_NUMBER)
    for value in values:
        # Of two that bound each other the message may name the other one
        named = "model.head.m" if name in ("min_margin", "min_norm") else f"model.head.{name}"
        check_refused(capsys, ["--model.head", head, f"--model.head.{name}={value}"], named)


TOO_WIDE = "{class_path: SimpleCNN, init_args: {embedding_dim: 99999999999999999999999999}}"
OUT_OF_RANGE = {
    "model.head.margin": ("-0.1", "3.1416", "1e3", "null"),
    "model.head.scale": ("0", "-30", "1e300", "adacoss", "null"),
    "model.optimizer.lr": ("-1", ".inf", "null", "'1'"),
    "model.optimizer.betas": ("[0.9]", "[0.9, 1.0]", "[.nan, 0.9]", "null", "0.9"),
    "model.head_lr": ("0", "-1", ".inf"),
    "model.head_sample_rate": ("0", "1.1", "null"),
    "model.lr_schedule.warmup_fraction": ("1", "-0.1", "null"),
    "model.backbone.embedding_dim": ("0", "-1", "1.5"),
    "model.backbone": ("5", "null", "[1]", "true", "builtins.dict", "nosuch.module.Net", TOO_WIDE),
    "model.head": ("5", "null", "[1]", "true", "builtins.dict", "ArcFaceHeads"),
    "model.optimizer": ("5", "null", "[1]", "true", "builtins.dict"),
    "model.lr_schedule": ("5", "[1]", "true", "builtins.dict"),
    "data": ("5", "null", "[1]", "true", "builtins.dict"),
    "data.batch_size": ("0", "-1", "1.5", "99999999999999999999999999"),
    "data.val_fraction": ("1", "-0.1", "null"),
    "data.shift": ("-1", "1e308"),
    "data.seed": ("-1", "1.5"),
    "trainer.callbacks": ("5", "[5]", "[{class_path: 5}]", "[{a: 1}]", "builtins.dict"),
    "trainer.max_epochs": ("0", "-2", "1.5", "99999999999999999999999999"),
    "trainer.accumulate_grad_batches": ("0", "-1", "null"),
    "trainer.gradient_clip_val": ("-1", ".inf"),
    "trainer.limit_train_batches": ("0", "0.0", "-1", "1.5"),
    "trainer.check_val_every_n_epoch": ("0", "-1"),
    "trainer.max_time": ("soon", "1"),
    "trainer.devices": ("0", "-2", "99999999999999999999999999"),
    "trainer.precision": ("bf17", "33"),
    "seed_everything": ("-1", "4294967296", "true", "null"),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range(name: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for value in OUT_OF_RANGE[name]:
        check_refused(capsys, [f"--{name}={value}"], name)


CONFIGS = {
    "an alias of itself": ("trainer: &t {a: *t}", "not valid YAML"),
    "brackets without end": ("trainer: " + "[" * 5000, "not valid YAML"),
    "a list for a name": ("trainer: {[1]: 2}", "not valid YAML"),
    "a Python object": ("model: !!python/object/apply:os.system ['touch canary']", "not valid YAML"),
    "a key twice": ("trainer: {max_epochs: 1, max_epochs: 2}", "the key 'max_epochs' stands there twice"),
    "a list": ("- 1", "expected a mapping of settings"),
    "a word": ("hello", "expected a mapping of settings"),
    "zero": ("0", "expected a mapping of settings"),
    "a tab": ("trainer:\n\tmax_epochs: 1", "not valid YAML"),
    "a section that is a number": ("trainer: 5", "trainer: got 5; expected a mapping of settings"),
    "a setting that is a number": ("trainer: {1: 2}", "trainer.1: unknown"),
    "an unknown section": ("models: {}", "models: unknown; did you mean model?"),
    "nested in a callback": (
        "trainer: {callbacks: [{class_path: RunProgressBar, init_args: {nosuch: 1}}]}",
        "trainer.callbacks.nosuch: unknown",
    ),
    "nested in the logger": ("trainer: {logger: {class_path: RunLogger, init_args: {nosuch: 1}}}", "logger.nosuch"),
    "nested in the optimizer": ("model: {optimizer: {class_path: torch.optim.Adam, init_args: {a: 1}}}", "optimizer.a"),
    "beside a class": ("model: {optimizer: {class_path: torch.optim.Adam, a: 1}}", "model.optimizer.a: unknown"),
    "arguments that are a number": (
        "model: {optimizer: {class_path: torch.optim.Adam, init_args: 5}}",
        "model.optimizer.init_args: got 5",
    ),
    "an unknown keyword": ("model: {optimizer: {class_path: torch.optim.Adam, dict_kwargs: {a: 5}}}", "optimizer.a"),
    "no text": ("\0\1\2", "not valid YAML"),
    "a null byte in a path": ('data: {init_args: {data_dir: "a\\0b"}}', "data.data_dir: got"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configs(case: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    text, message = CONFIGS[case]
    Path("c.yaml").write_text(text)
    check_refused(capsys, ["--config", "c.yaml"], message)
    assert not Path("canary").exists()


def test_configs_that_are_no_text(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.yaml").write_bytes(bytes(range(256)))
    for path, message in (
        ("b.yaml", "not UTF-8"),
        (".", "Is a directory"),
        ("no", "--config: got 'no'; expected a file, or one of accurate, "),
        ("no/such.yaml", "No such file"),
    ):
        check_refused(capsys, ["--config", path], message)


def test_a_section_whose_lines_are_comments_is_no_difference(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("trainer:\n  # max_epochs: 3\nmodel:\n")
    main(["fit", "--accelerator", "cpu", "--config", "c.yaml", "--print_config"])
    assert "max_epochs: 10" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--max_epochs"], ["--max_epochs="], ["--max_epochs", "--devices", "1"]])
def test_a_flag_without_a_value(flags: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["fit", *flags])
    assert ended.value.code == 2
    assert "trainer.max_epochs: needs a value" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_what_goes_wrong_in_the_run_itself_is_one_line_too(
    tmp_path: Path, monkeypatch, capsys, rng: random.Random
) -> None:
    """Settings that only meet in the run: what Lightning or an optimizer says there is no traceback either."""
    monkeypatch.chdir(tmp_path)
    quick = ["fit", "--data.dataset", "digits", "--accelerator", "cpu", "--enable_progress_bar", "false"]
    cases = [
        ["--limit_train_batches", "0.0001"],
        ["--limit_val_batches", "0.0001"],
        ["--val_check_interval", "2000000000"],
        ["--model.optimizer", "LBFGS"],
        ["--model.optimizer", "SparseAdam"],
        ["--trainer.callbacks", "[{class_path: EarlyStopping, init_args: {monitor: nosuch}}]"],
        ["--data.val_fraction", "0.9999999"],
    ]
    for case in rng.sample(cases, len(cases)):
        with pytest.raises(SystemExit) as ended:
            main([*quick, "--max_epochs", "1", *case])
        assert ended.value.code == 2, case
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("arcface-pl fit: error: "), case
