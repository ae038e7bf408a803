"""`Recognizer`: embed and compare pictures, recognize trained classes and enrolled names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arcface_pl.errors import expected
from arcface_pl.evaluation.thresholds import DEFAULT_FAR, Calibration, Scored, calibrate
from arcface_pl.heads import Head
from arcface_pl.recognizer.answers import Classification, Identification, Picture, Thresholds, Verification
from arcface_pl.recognizer.gallery import Gallery
from arcface_pl.recognizer.pretrained import read_pretrained, write_pretrained
from arcface_pl.recognizer.trained import TrainedModel

__all__ = ["Recognizer"]


class Recognizer:
    """Inference with a trained model, without a Trainer.

    A picture is a path, a uint8 tensor (C, H, W) or a PIL image, of any size; the model's `Preprocessor` frames it. A
    uint8 tensor (B, C, S, S) at the network's input size is a batch of framed images and is only normalized. Results
    are on the CPU.

    Args:
        model: The trained model; see `from_checkpoint` and `from_pretrained`.
        device: Device of the network.

    Attributes:
        model: Networks, preprocessing, class names and thresholds.
        gallery: The enrolled names.
    """

    def __init__(self, model: TrainedModel, *, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device)
        self.gallery = Gallery(model.head.embedding_dim)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        backbone: nn.Module | None = None,
        head: Head | None = None,
    ) -> Self:
        """Load the model of a checkpoint.

        Args:
            path: A checkpoint of an `ArcFaceModule`.
            device: Device of the network.
            backbone: Needed if the checkpoint's backbone is not a class of this package.
            head: Needed if the checkpoint's head is not a class of this package.

        Raises:
            CheckpointError: If the file is damaged, unsafe, or does not fit the classes.
        """
        return cls(TrainedModel.from_checkpoint(path, backbone=backbone, head=head), device=device)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        backbone: nn.Module | None = None,
        head: Head | None = None,
    ) -> Self:
        """Load a folder that `save_pretrained` wrote; nothing is unpickled or downloaded.

        Args:
            folder: Holds ``config.json`` and ``model.safetensors``.
            device: Device of the network.
            backbone: Needed if the model's backbone is not a class of this package.
            head: Needed if the model's head is not a class of this package.

        Raises:
            PretrainedError: If a file is missing, damaged or of another version.
        """
        return cls(read_pretrained(folder, backbone=backbone, head=head), device=device)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the weights, ``config.json`` and a model card to a folder.

        Args:
            folder: A new or empty folder, or one that this method wrote.

        Raises:
            PretrainedError: If it cannot be written, or holds other files.
        """
        write_pretrained(self.model, folder)

    @property
    def class_names(self) -> list[str]:
        """Names of the trained classes, in label order."""
        return self.model.class_names

    @property
    def thresholds(self) -> Thresholds:
        """The stored thresholds."""
        return Thresholds.of(self.model.calibration)

    @property
    def names(self) -> list[str]:
        """The enrolled names."""
        return self.gallery.names

    @torch.inference_mode()
    def embed(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Embed pictures.

        Args:
            images: One picture or several; see the class.

        Returns:
            (B, D) float32 unit rows.

        Raises:
            ImageError: If a file cannot be read.
            ValueError: If a tensor is not a picture.
        """
        parts = [F.normalize(self.model.backbone(batch), dim=1).cpu() for batch in self.model.batches(images)]
        return torch.cat(parts) if parts else torch.empty(0, self.model.head.embedding_dim)

    @torch.inference_mode()
    def class_scores(self, images: Picture | Sequence[Picture]) -> Tensor:
        """Compute the cosines to the centers of the trained classes.

        Args:
            images: One picture or several; see the class.

        Returns:
            (B, C) cosines.
        """
        head = self.model.head
        parts = [head.cosine(self.model.backbone(batch)).cpu() for batch in self.model.batches(images)]
        return torch.cat(parts) if parts else torch.empty(0, head.num_classes)

    @torch.inference_mode()
    def classify(self, images: Picture | Sequence[Picture], *, threshold: float | None = None) -> list[Classification]:
        """Predict the trained class of pictures.

        Args:
            images: One picture or several; see the class.
            threshold: Smallest accepted cosine; unset: the stored threshold.

        Returns:
            One answer per picture. With a `LinearHead` the predicted class need not have the largest cosine.
        """
        threshold = self.thresholds.classification if threshold is None else threshold
        answers = []
        for batch in self.model.batches(images):
            classes, cosine = self.model.head.predict(self.model.backbone(batch))
            answers += [
                Classification(self.class_names[index], score, threshold is not None and score < threshold)
                for index, score in zip(classes.tolist(), cosine.tolist(), strict=True)
            ]
        return answers

    def verify(self, a: Picture, b: Picture, *, threshold: float | None = None) -> Verification:
        """Compare two pictures.

        Args:
            a: One picture.
            b: The other.
            threshold: Smallest cosine of the same class; unset: the stored threshold.
        """
        threshold = self.thresholds.verification if threshold is None else threshold
        pair = torch.cat((self.embed(a), self.embed(b))).double()
        if len(pair) != 2:
            raise ValueError(expected("a, b", f"{len(pair)} pictures", "one picture each"))
        # Exact for small angles, unlike acos near 1
        angle = 2 * torch.atan2((pair[0] - pair[1]).norm(), (pair[0] + pair[1]).norm())
        cosine = float(angle.cos())
        return Verification(cosine, float(angle.rad2deg()), None if threshold is None else cosine >= threshold)

    def enroll(self, name: str, images: Picture | Sequence[Picture]) -> int:
        """Enroll pictures of ``name``; if it is enrolled already, they are added to its pictures.

        Args:
            name: Any non-empty text.
            images: At least one picture; one to five are usual.

        Returns:
            Number of pictures of the name.
        """
        self.gallery.add(name, self.embed(images))
        return self.gallery.counts[name]

    def remove(self, name: str) -> None:
        """Forget an enrolled name; raises UserError if there is none."""
        self.gallery.remove(name)

    def identify(
        self, images: Picture | Sequence[Picture], *, threshold: float | None = None, num_matches: int = 5
    ) -> list[Identification]:
        """Find the enrolled name of pictures.

        Args:
            images: One picture or several; see the class.
            threshold: Smallest accepted cosine; unset: the stored threshold for two pictures. Without one, the nearest
                name is the answer.
            num_matches: Matches to return, at least 1.
        """
        threshold = self.thresholds.verification if threshold is None else threshold
        answers = []
        for matches in self.gallery.search(self.embed(images), num_matches):
            believed = matches and (threshold is None or matches[0].score >= threshold)
            answers.append(Identification(matches[0].name if believed else None, matches))
        return answers

    def save_gallery(self, folder: str | Path) -> None:
        """Write the enrolled names; see `Gallery.save`."""
        self.gallery.save(folder, self.model.fingerprint)

    def load_gallery(self, folder: str | Path) -> None:
        """Replace the enrolled names by those of a folder.

        Raises:
            GalleryError: If it is missing, damaged, or was made by another model.
        """
        self.gallery = Gallery.load(folder, self.model.fingerprint)

    def calibrate(
        self, images: Sequence[Picture] | Tensor, labels: Sequence[str], *, far: float = DEFAULT_FAR, source: str
    ) -> Calibration:
        """Measure the thresholds on your own pictures; they replace the stored ones.

        Args:
            images: Pictures that the model was not trained on.
            labels: Class name of each; at least two classes, one of them with two pictures. If some are not trained
                classes, the thresholds are measured on those; see `arcface_pl.evaluation.thresholds.calibrate`.
            far: False accept rate, in [0, 1].
            source: Name of these pictures, stored with the thresholds.

        Returns:
            The thresholds, with their rates on these pictures.

        Raises:
            ValueError: If ``far`` is out of range, or there are no genuine or no impostor pairs.
        """
        classes = {name: index for index, name in enumerate(dict.fromkeys((*self.class_names, *labels)))}
        index = torch.tensor([classes[label] for label in labels], dtype=torch.int64)
        embeddings, is_trained = self.embed(images), index < len(self.class_names)
        parts = [
            Scored.by(self.model.head, embeddings[rows], index[rows], trained=trained) if rows.any() else None
            for rows, trained in ((is_trained, True), (~is_trained, False))
        ]
        self.model.calibration = calibrate(*parts, far=far, source=source)
        return self.model.calibration
