"""Fixed protocols for the evaluation of classes that were never trained on, by name.

Training sees the training images of the trained classes, less those set aside for validation. A setting may be chosen
by the held-out classes' training images; what is reported is measured on their test images, all of them: every pair of
two, and each looked up among the others.
"""

from dataclasses import dataclass
from typing import Any

__all__ = ["PROTOCOLS", "Protocol"]


@dataclass(frozen=True)
class Protocol:
    """What is trained on, and which unseen classes are evaluated.

    Attributes:
        name: The value of ``--protocol``.
        title: What it is, in a line.
        trained_on: Data set whose classes, but for the held-out ones, are trained on.
        held_out: Labels of those that are held out and evaluated; none where another data set is.
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
        from arcface_pl.data.sources.catalog import (
            CATALOG,  # takes torch along, which a list of protocols can do without
        )

        names = CATALOG[self.trained_on].class_names
        return [name for label, name in enumerate(names) if label not in self.held_out]

    @property
    def settings(self) -> dict[str, Any]:
        """The data module's settings for evaluating it."""
        return {
            "class_path": "MNISTDataModule",
            "init_args": {"dataset": self.evaluated_on, "classes": None, "held_out_classes": list(self.held_out)},
        }

    @property
    def training_flags(self) -> str:
        """Flags of ``fit`` that train for it."""
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
        # The five leave-two-out splits of the digits; a single one to compare by is mnist-8-9.
        *(_leave_two_out(first, first + 1) for first in range(0, 10, 2)),
        Protocol("mnist-to-fashion", "MNIST's ten digits, then Fashion-MNIST", "mnist", (), "fashion_mnist"),
    )
}
