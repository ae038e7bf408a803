"""What the package uses of others beyond their documentation; each test fails by name when a release changes it."""

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import torch.distributed as dist
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher, _SubprocessScriptLauncher
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR

from arcface_pl.callbacks.run import private_apis
from arcface_pl.heads import ArcFaceHead

Make = Callable[..., Any]


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("2", 2), ("1.0", 1.0), ("0.5", 0.5), ("null", None)])
def test_put_whole_numbers_first(monkeypatch: pytest.MonkeyPatch, text: str, value: Any) -> None:
    hints = inspect.unwrap(L.Trainer.__init__).__annotations__
    assert {"limit_train_batches", "val_check_interval"} <= set(hints)
    monkeypatch.setitem(hints, "limit_train_batches", float | int | None)
    private_apis.put_whole_numbers_first(L.Trainer)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(L.Trainer, "trainer")
    found = parser.parse_args([f"--trainer.limit_train_batches={text}"]).trainer.limit_train_batches
    assert found == value
    assert type(found) is type(value)


def test_log_interval(make_trainer: Make) -> None:
    assert private_apis.log_interval(make_trainer(log_every_n_steps=7)) == 7
    assert private_apis.log_interval(make_trainer(log_every_n_steps=0)) == 1


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
def test_skip_fused_step(kind: Any) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = kind([weight], lr=0.1, fused=True)
    for skip in (True, False):
        weight.grad = torch.ones(3)
        assert private_apis.skip_fused_step(optimizer, torch.tensor(skip))
        optimizer.step()
        assert torch.equal(weight, torch.ones(3)) == skip
    assert not private_apis.skip_fused_step(torch.optim.Adam([weight], fused=False), torch.tensor(True))


def test_save_in_every_process(make_trainer: Make, tiny_module: Make, tiny_loader: Make, tmp_path: Path) -> None:
    trainer, saved = make_trainer(max_epochs=1), []
    trainer.fit(tiny_module(), tiny_loader())
    private_apis.save_in_every_process(trainer.strategy, lambda *args, **_: saved.append(args))
    trainer.save_checkpoint(tmp_path / "run.ckpt", weights_only=False)
    ((strategy, content, path),) = saved
    assert strategy is trainer.strategy
    assert "state_dict" in content
    assert path == tmp_path / "run.ckpt"


@pytest.fixture
def group(tmp_path: Path) -> Any:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_keep_out_of_ddp() -> None:
    module = nn.Linear(2, 2)
    private_apis.keep_out_of_ddp(module, ["bias"])
    wrapped = DistributedDataParallel(module)
    assert wrapped.parameters_to_ignore == {"bias"}


@pytest.mark.usefixtures("group")
def test_default_store() -> None:
    store = dist.PrefixStore("test", private_apis.default_store())
    store.set("key", "value")
    assert store.get("key") == b"value"


def test_child_processes() -> None:
    for launcher in (_MultiProcessingLauncher(Any), _SubprocessScriptLauncher(Any, 2, 1)):  # type: ignore[arg-type]
        launcher.procs = ["child"]  # type: ignore[list-item]
        trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=launcher))
        assert private_apis.child_processes(trainer) == ["child"]
        assert "procs" in vars(type(launcher)(Any, *((2, 1) if "Subprocess" in type(launcher).__name__ else ())))
    assert private_apis.child_processes(SimpleNamespace(strategy=SimpleNamespace(launcher=None))) == []


def test_validates_after_and_batches_done(make_trainer: Make, tiny_module: Make, tiny_loader: Make) -> None:
    expected: list[bool] = []
    done: list[int] = []
    validated: list[int] = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, idx: int) -> None:
            expected.append(private_apis.validates_after(trainer, idx))
            done.append(private_apis.batches_done(trainer))

        def on_validation_end(self, trainer: L.Trainer, pl_module: Any) -> None:
            validated.append(trainer.global_step)

    trainer = make_trainer(max_epochs=2, val_check_interval=2, callbacks=[Watch()])
    trainer.fit(tiny_module(), tiny_loader(), tiny_loader())
    assert [step for step, due in enumerate(expected, start=1) if due] == validated == [2, 4, 6, 8]
    assert done == [1, 2, 3, 4] * 2


def test_count_averages_on_host(make_trainer: Make, tiny_module: Make) -> None:
    average, module = WeightAveraging(device="meta"), tiny_module()
    average.setup(make_trainer(), module, "fit")
    private_apis.count_averages_on_host(average)
    count = average._average_model.n_averaged
    assert (count.device.type, int(count)) == ("cpu", 0)
    assert {weight.device.type for weight in average._average_model.parameters()} == {"meta"}


@pytest.mark.parametrize("kind", [CSVLogger, TensorBoardLogger])
def test_chosen_version_and_set_version(tmp_path: Path, kind: Any) -> None:
    logger = kind(tmp_path)
    assert private_apis.chosen_version(logger) is None
    private_apis.set_version(logger, "named")
    assert logger.version == private_apis.chosen_version(logger) == Path(logger.log_dir).name == "named"
    assert private_apis.chosen_version(kind(tmp_path, version=3)) == 3
    unnamed = kind(tmp_path)
    assert unnamed.version == private_apis.chosen_version(unnamed) == 0


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_change_of_dtype_reaches_the_apply_of_every_module(narrow: torch.dtype) -> None:
    """`Head._apply` keeps what a head measures in float32, however its module is converted."""

    class Measuring(ArcFaceHead):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("measured", torch.full((1,), 1 / 3))
            self.register_buffer("missing", None)

    for convert in (nn.Module.half, nn.Module.bfloat16, lambda module: module.to(narrow)):
        head = convert(nn.Sequential(Measuring()))[0]
        assert head.weight.dtype in (torch.bfloat16, torch.float16)
        assert torch.equal(head.measured, torch.full((1,), 1 / 3))
    assert nn.Sequential(Measuring()).double()[0].measured.dtype == torch.float64


def test_move_logger(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path / "elsewhere")
    private_apis.move_logger(logger, tmp_path / "name" / "version_7")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    assert list((tmp_path / "name" / "version_7").glob("events*"))
    assert not (tmp_path / "elsewhere").exists()


def test_set_rates() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = LambdaLR(optimizer, lambda step: 1.0)
    private_apis.set_rates(schedule, [0.25])
    assert schedule.get_last_lr() == [0.25] == [group["lr"] for group in optimizer.param_groups]


def test_every_reliance_has_its_test() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    functions = [name for name, value in vars(private_apis).items() if inspect.isfunction(value) and name[0] != "_"]
    borrowed = {"claim_folder", "unused_path", "rank_zero_only", "get_args"}
    assert {"batches_done", "set_rates"} <= {*functions}
    assert not [name for name in functions if name not in borrowed and f"private_apis.{name}" not in text]


def test_no_other_file_uses_what_others_keep_private() -> None:
    package = Path(private_apis.__file__).parents[2]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in package.rglob("*.py")}
    ours = {name for tree in trees.values() for node in ast.walk(tree) for name in _defined(node)}
    for path, tree in trees.items():
        used = {name for node in ast.walk(tree) for name in _used(node) if name.startswith("_") and name[:2] != "__"}
        if path.name != "private_apis.py":
            # A namedtuple's methods are documented, as is os._exit; see `private_apis` on `_apply`
            assert not used - ours - {"_replace", "_asdict", "_fields", "_exit", "_apply"}, path


def _defined(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.id if isinstance(node, ast.Name) else node.attr


def _used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (part for alias in node.names for part in alias.name.split("."))
        yield from (getattr(node, "module", None) or "").split(".")


def test_join_folder(tmp_path: Path) -> None:
    folder = tmp_path / "lightning_logs" / "version_7"
    folder.mkdir(parents=True)
    loggers: list[Any] = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path)]
    for logger in loggers:
        private_apis.join_folder(logger, folder)
        assert logger.log_dir == str(folder)
    for logger in (CSVLogger(tmp_path, name="other"), CSVLogger(tmp_path, version=3)):
        private_apis.join_folder(logger, folder)
        assert logger.log_dir != str(folder)
    used = tmp_path / "lightning_logs" / "version_3"
    used.mkdir()
    for names in (["csv"], ["csv-1"]):  # a new run with the version of another, or that is resumed
        (used / "metrics.csv").write_text("of another run")
        again = CSVLogger(tmp_path, version=3)
        private_apis.join_folder(again, folder)
        again.log_metrics({"loss": 1.0})
        again.save()
        private_apis.join_folder(again, folder)  # in use: stays
        assert again.log_dir == str(used / names[0])
        assert (used / "metrics.csv").read_text() == "of another run"
    (folder / "csv").mkdir()
    apart = CSVLogger(tmp_path)
    private_apis.join_folder(apart, folder, apart=True)
    assert apart.log_dir == str(folder / "csv-1")
    elsewhere = [CSVLogger(tmp_path / "own") for _ in range(2)]
    for logger in elsewhere:  # claimed, not counted: no other run can choose it
        private_apis.join_folder(logger, folder)
    assert [Path(logger.log_dir).name for logger in elsewhere] == ["version_0", "version_1"]
    assert all(Path(logger.log_dir).is_dir() for logger in elsewhere)


def test_finish_epoch(  # private_apis.finish_epoch, which ExactResume calls
    make_trainer: Make, tiny_module: Make, tiny_loader: Make, tmp_path: Path
) -> None:
    class Save(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.current_epoch == 0:
                trainer.save_checkpoint(tmp_path / "epoch.ckpt")

    def fit(callbacks: list[Any], checkpoint: Path | None = None) -> tuple[int, Any]:
        module, trainer = tiny_module(), make_trainer(max_epochs=3, max_steps=11, callbacks=callbacks)
        trainer.fit(module, tiny_loader(), ckpt_path=checkpoint, weights_only=True)
        return trainer.global_step, module.state_dict()

    (steps, whole), (resumed_steps, resumed) = fit([Save()]), fit([], tmp_path / "epoch.ckpt")
    assert steps == resumed_steps == 11
    assert all(torch.equal(weights, resumed[name]) for name, weights in whole.items())


def test_num_hooks() -> None:
    layer = nn.Linear(1, 1)
    assert private_apis.num_hooks(layer) == 0
    handles = [
        layer.register_forward_hook(print),
        layer.register_forward_pre_hook(print),
        layer.register_full_backward_hook(print),
        layer.register_full_backward_pre_hook(print),
    ]
    assert private_apis.num_hooks(layer) == 4
    for handle in handles:
        handle.remove()
    assert private_apis.num_hooks(layer) == 0
