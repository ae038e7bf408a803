"""`Recognizer`: embed and compare pictures, recognize trained classes and enrolled names."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arcface_pl.errors import GalleryError, expected
from arcface_pl.evaluation.thresholds import DEFAULT_FAR, Calibration, Scored, calibrate
from arcface_pl.functional.checks import check_count
from arcface_pl.preprocessing import ImageError
from arcface_pl.recognizer.answers import (
    Classification,
    Embeddings,
    Identification,
    Picture,
    Pictures,
    Verification,
)
from arcface_pl.recognizer.embedding_space import checked_rows
from arcface_pl.recognizer.gallery import Gallery
from arcface_pl.recognizer.loaded import LoadedModel
from arcface_pl.recognizer.trained import TrainedModel


class Recognizer(LoadedModel):
    """Inference with a trained model, without a Trainer.

    A picture is a path, the bytes of a picture file, a file opened for bytes, a PIL image, or a NumPy array or tensor
    (H, W), (H, W, C) or (C, H, W): uint8, bool, uint16 or floating point from 0 to 1. It may have any size; the model's
    `Preprocessor` frames it, and the same picture gives the same answer in every form. Several pictures are any
    iterable of these, or an array (N, H, W, C) or (N, C, H, W). Shapes with two readings are refused. In place of
    pictures, every method takes `Embeddings` that the model made elsewhere.

    With ``framed=True`` pictures are uint8 (N, C, S, S) at the network's input size, prepared as the training images
    were, and only normalized.

    Several threads may use one recognizer. Results are on the CPU.

    Args:
        model: The trained model; see `from_checkpoint` and `from_pretrained`.
        device: Device of the network.

    Attributes:
        model: Networks, preprocessing, class names and thresholds.
        gallery: The enrolled names.
    """

    def __init__(self, model: TrainedModel, *, device: str | torch.device = "cpu") -> None:
        super().__init__(model, device=device)
        self.gallery = Gallery(model.head.embedding_dim)

    @property
    def names(self) -> list[str]:
        """The enrolled names."""
        return self.gallery.names

    def __repr__(self) -> str:
        return f"Recognizer({self.model!r}, {len(self.gallery):,} enrolled)"

    def embed(self, images: Pictures, *, framed: bool = False) -> Tensor:
        """Embed pictures.

        Args:
            images: One picture or several; see the class.
            framed: See the class.

        Returns:
            (B, D) float32 unit rows.

        Raises:
            ImageError: If a picture cannot be read; of several, the message says which.
        """
        return _stacked(self.embed_each(images, framed=framed), self.model.head.embedding_dim)

    def embed_each(self, images: Pictures, *, framed: bool = False) -> list[Tensor | ImageError]:
        """Embed pictures, some of which may be unreadable.

        Args:
            images: One picture or several; see the class.
            framed: See the class.

        Returns:
            (D,) float32 unit row of each picture, in order; of several, those that cannot be read have their error.
        """
        return self._answers(images, framed, lambda embeddings: F.normalize(embeddings, dim=1).cpu())

    def class_scores(self, images: Pictures, *, framed: bool = False) -> Tensor:
        """Compute the cosines to the centers of the trained classes.

        Args:
            images: One picture or several; see the class.
            framed: See the class.

        Returns:
            (B, C) cosines.

        Raises:
            ImageError: If a picture cannot be read; of several, the message says which.
        """
        head = self.model.head
        return _stacked(self._answers(images, framed, lambda each: head.cosine(each).cpu()), head.num_classes)

    def classify(
        self, images: Pictures, *, threshold: float | None = None, framed: bool = False
    ) -> list[Classification | ImageError]:
        """Predict the trained class of pictures.

        Args:
            images: One picture or several; see the class.
            threshold: Smallest accepted cosine; unset: the stored threshold.
            framed: See the class.

        Returns:
            One answer per picture, in order; of several pictures, those that cannot be read have their error there.
            With a `LinearHead` the predicted class need not have the largest cosine.

        Raises:
            ImageError: If a single picture cannot be read.
        """
        threshold = self.thresholds.classification if threshold is None else threshold

        def answer(embeddings: Tensor) -> list[Classification]:
            return [
                Classification(self.class_names[index], score, threshold is not None and score < threshold)
                for index, score in zip(*map(Tensor.tolist, self.model.head.predict(embeddings)), strict=True)
            ]

        return self._answers(images, framed, answer)

    @torch.inference_mode()
    def _answers(self, images: Pictures, framed: bool, answer: Callable[[Tensor], Iterable[Any]]) -> list[Any]:
        """Return ``answer`` of each picture's embedding, or its error, in order."""
        if isinstance(images, Embeddings):
            rows = checked_rows(images, self.model)
            return list(answer(rows)) if len(rows) else []
        found: list[Any] = []
        for batch, errors in self.model.batches(images, framed=framed):
            answers = iter(answer(self.model.backbone(batch)) if len(batch) else ())
            found += [next(answers) if error is None else error for error in errors]
        return found

    def verify(
        self, a: Picture | Embeddings, b: Picture | Embeddings, *, threshold: float | None = None, framed: bool = False
    ) -> Verification:
        """Compare two pictures.

        Args:
            a: One picture.
            b: The other.
            threshold: Smallest cosine of the same class; unset: the stored threshold.
            framed: See the class; ``a`` and ``b`` then have N = 1.

        Raises:
            ImageError: If one cannot be read.
        """
        pair = torch.cat((self.embed(a, framed=framed), self.embed(b, framed=framed)))
        if len(pair) != 2:
            raise ValueError(expected("a, b", f"{len(pair)} pictures", "one picture each"))
        return self.compare(pair, threshold=threshold)

    def compare(self, pair: Tensor, *, threshold: float | None = None) -> Verification:
        """Compare two embeddings.

        Args:
            pair: (2, D) unit rows.
            threshold: Smallest cosine of the same class; unset: the stored threshold.
        """
        threshold = self.thresholds.verification if threshold is None else threshold
        pair = pair.double()
        # Exact for small angles, unlike acos near 1
        angle = 2 * torch.atan2((pair[0] - pair[1]).norm(), (pair[0] + pair[1]).norm())
        cosine = float(angle.cos())
        return Verification(cosine, float(angle.rad2deg()), None if threshold is None else cosine >= threshold)

    def enroll(self, name: str, images: Pictures, *, framed: bool = False) -> int:
        """Enroll pictures of ``name``; if it is enrolled already, they are added to its pictures.

        Args:
            name: Any non-empty text.
            images: At least one picture; one to five are usual.
            framed: See the class.

        Returns:
            Number of pictures of the name.

        Raises:
            ImageError: If a picture cannot be read; none is then enrolled.
        """
        self.gallery.add(name, self.embed(images, framed=framed))
        return self.gallery.counts[name]

    def remove(self, name: str) -> None:
        """Forget an enrolled name; raises UserError if there is none."""
        self.gallery.remove(name)

    def identify(
        self, images: Pictures, *, threshold: float | None = None, num_matches: int = 5, framed: bool = False
    ) -> list[Identification | ImageError]:
        """Find the enrolled name of pictures.

        Args:
            images: One picture or several; see the class.
            threshold: Smallest accepted cosine; unset: the stored threshold for two pictures. Without one, the nearest
                name is the answer.
            num_matches: Matches to return, at least 1.
            framed: See the class.

        Returns:
            One answer per picture, in order; of several pictures, those that cannot be read have their error there.

        Raises:
            ImageError: If a single picture cannot be read.
        """
        check_count("num_matches", num_matches, low=1)
        threshold = self.thresholds.verification if threshold is None else threshold

        def answer(embeddings: Tensor) -> Iterator[Identification]:
            for matches in self.gallery.search(F.normalize(embeddings, dim=1).cpu(), num_matches):
                believed = matches and (threshold is None or matches[0].score >= threshold)
                yield Identification(matches[0].name if believed else None, matches)

        return self._answers(images, framed, answer)

    def save_gallery(self, folder: str | Path) -> None:
        """Write the enrolled names; see `Gallery.save`."""
        self.gallery.save(folder, self.model.fingerprint)

    def load_gallery(self, folder: str | Path) -> None:
        """Replace the enrolled names by those of a folder.

        Raises:
            GalleryError: If it is missing, damaged, or was made by another model.
        """
        gallery, width = Gallery.load(folder, self.model.fingerprint), self.model.head.embedding_dim
        if gallery.embedding_dim != width:  # two models of the same name
            fault = expected("embedding_dim", gallery.embedding_dim, f"{width}, as the model has")
            raise GalleryError(folder, fault, "give another gallery")
        self.gallery = gallery

    def calibrate(
        self,
        images: Pictures,
        labels: Sequence[str],
        *,
        far: float = DEFAULT_FAR,
        source: str,
        framed: bool = False,
    ) -> Calibration:
        """Measure the thresholds on your own pictures; they replace the stored ones.

        Args:
            images: Pictures that the model was not trained on.
            labels: Class name of each; at least two classes, one of them with two pictures. If some are not trained
                classes, the thresholds are measured on those; see `arcface_pl.evaluation.thresholds.calibrate`.
            far: False accept rate, in [0, 1].
            source: Name of these pictures, stored with the thresholds.
            framed: See the class.

        Returns:
            The thresholds, with their rates on these pictures.

        Raises:
            ValueError: If ``far`` is out of range, or there are no genuine or no impostor pairs.
        """
        classes = {name: index for index, name in enumerate(dict.fromkeys((*self.class_names, *labels)))}
        index = torch.tensor([classes[label] for label in labels], dtype=torch.int64)
        embeddings, is_trained = self.embed(images, framed=framed), index < len(self.class_names)
        if len(labels) != len(embeddings):
            raise ValueError(expected("labels", f"{len(labels)} labels", f"{len(embeddings)}, one per image"))
        parts = [
            Scored.by(self.model.head, embeddings[rows], index[rows], trained=trained) if rows.any() else None
            for rows, trained in ((is_trained, True), (~is_trained, False))
        ]
        self.model.calibration = calibrate(*parts, far=far, source=source)
        return self.model.calibration


def _stacked(rows: list[Any], width: int) -> Tensor:
    for place, row in enumerate(rows):
        if isinstance(row, ImageError):
            raise ImageError(f"images[{place}]: {row}") from row
    return torch.stack(rows) if rows else torch.empty(0, width)
