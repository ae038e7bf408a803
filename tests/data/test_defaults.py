"""What a data module does where nothing is set."""

import inspect

import yaml

from arcface_pl.cli.config import BASE_CONFIG
from arcface_pl.data import ImageFolderDataModule, MNISTDataModule, PairsDataModule


def defaults(module: type) -> dict[str, object]:
    parameters = inspect.signature(module.__init__).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def test_the_base_config_documents_the_constructors_defaults() -> None:
    written = yaml.safe_load(BASE_CONFIG.read_text())["data"]["init_args"]
    assert {name: defaults(MNISTDataModule)[name] for name in written} == written


def test_settings_that_only_affect_speed_are_the_same_everywhere() -> None:
    modules = (ImageFolderDataModule, MNISTDataModule, PairsDataModule)
    assert len({defaults(module)["eval_batch_size"] for module in modules}) == 1
