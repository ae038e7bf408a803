"""Named protocols for the evaluation of classes that are not trained on.

Training uses the training images of the trained classes, without those set aside for validation. Settings may be chosen
on the training images of held-out classes. Reported scores use all test images of the held-out classes: every pair, and
each image looked up among all others.

Omniglot has its own evaluation alphabets, and official runs of one-shot classification among them.
"""

from dataclasses import dataclass
from typing import Any

_OMNIGLOT = "omniglot"


@dataclass(frozen=True)
class Protocol:
    """Which classes are trained on, and which unseen classes are evaluated.

    Attributes:
        name: Value of ``--protocol``.
        title: Description in one line.
        trained_on: Data set whose classes, except for the held-out ones, are trained on.
        held_out: Labels of classes that are held out and evaluated; empty if another data set, or Omniglot, is
            evaluated.
        evaluated_on: Data set whose images are evaluated.
    """

    name: str
    title: str
    trained_on: str
    held_out: tuple[int, ...]
    evaluated_on: str

    @property
    def trained_class_names(self) -> list[str]:
        """Names of the classes that the network must have been trained on."""
        from arcface_pl.data.sources.catalog import CATALOG  # imports torch, which listing protocols does not need

        names = CATALOG[self.trained_on].class_names
        return [name for label, name in enumerate(names) if label not in self.held_out]

    def accepts(self, dataset_name: str | None, class_names: list[str]) -> bool:
        """Whether a network trained on these classes may be evaluated: on Omniglot, any of the background's."""
        if dataset_name != self.trained_on:
            return False
        return dataset_name == _OMNIGLOT or class_names == self.trained_class_names

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the data module for the evaluation."""
        if self.evaluated_on == _OMNIGLOT:
            return {"class_path": "arcface_pl.data.OmniglotDataModule"}
        return {
            "class_path": "MNISTDataModule",
            "init_args": {"dataset": self.evaluated_on, "classes": None, "held_out_classes": list(self.held_out)},
        }

    @property
    def training_flags(self) -> str:
        """Flags of ``fit`` that train for this protocol."""
        if self.trained_on == _OMNIGLOT:
            return "--config omniglot"
        held_out = f" --data.held_out_classes '{list(self.held_out)}'" if self.held_out else ""
        return f"--data.dataset {self.trained_on}{held_out}"


def _leave_two_out(*held_out: int) -> Protocol:
    names = " and ".join(map(str, held_out))
    return Protocol(
        f"mnist-{held_out[0]}-{held_out[1]}", f"MNIST without {names}, then {names}", "mnist", held_out, "mnist"
    )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Five leave-two-out splits of the digits; compare single runs on mnist-8-9
        *(_leave_two_out(first, first + 1) for first in range(0, 10, 2)),
        Protocol("mnist-to-fashion", "MNIST's ten digits, then Fashion-MNIST", "mnist", (), "fashion_mnist"),
        Protocol("omniglot", "Omniglot's background, then its evaluation and one-shot runs", _OMNIGLOT, (), _OMNIGLOT),
    )
}
