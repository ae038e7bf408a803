"""Replies to the page's requests: bytes of a picture in, plain values out."""

import base64
import io
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from PIL import Image
from torch import Tensor

from arcface_pl.errors import UserError, expected, printable
from arcface_pl.preprocessing import ImageError
from arcface_pl.recognizer import Recognizer, Thresholds
from arcface_pl.recognizer.pictures import frame

MAX_BYTES = 20 * 2**20
"""Largest picture file; photos of phones have up to 12 million bytes."""
SHOWN = 30
"""Number of classes and names shown; if there are more, the nearest."""
MAX_NAME = 60


class Demo:
    """A `Recognizer` for the page; not thread-safe.

    Pictures are read and framed as in ``arcface-pl predict``. The answer is the predicted class or the nearest enrolled
    name: the one with the larger cosine among those above their threshold.

    Args:
        recognizer: The model and the enrolled names.
        threshold: Smallest accepted cosine, in [-1, 1]; unset: the stored thresholds.
        editing: Context entered around each change of the enrolled names, to store them.
    """

    def __init__(
        self,
        recognizer: Recognizer,
        *,
        threshold: float | None = None,
        editing: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.recognizer = recognizer
        self.threshold = threshold
        self.editing = editing

    def about(self) -> dict[str, Any]:
        """Describe the model, its thresholds in degrees, and the enrolled names."""
        model, thresholds = self.recognizer.model, self._limits
        return {
            "dataset": None if model.dataset_name is None else printable(model.dataset_name),
            "num_classes": len(model.class_names),
            "classes": [{"label": printable(name)} for name in model.class_names]
            if len(model.class_names) <= SHOWN
            else [],
            "embedding_dim": model.head.embedding_dim,
            "style": model.preprocessor.style,
            "max_bytes": MAX_BYTES,
            "class_threshold_degrees": _degrees(thresholds.classification),
            "enrolled_threshold_degrees": _degrees(thresholds.verification),
            **self._names(),
        }

    def recognize(self, content: bytes) -> dict[str, Any]:
        """Recognize a picture.

        Args:
            content: A picture file.

        Returns:
            ``decision``: the nearest class or name, whether it is unknown, and whether it is a guess, since there is no
            threshold for it. ``classes`` and ``enrolled``: cosine and
            angle to each, in their order; if there are more than `SHOWN`, the nearest first. ``input``: the framed
            picture.

        Raises:
            UserError: If it is not a picture, or is blank.
        """
        pixels = self._pixels(content)
        (found,) = self.recognizer.classify(pixels, threshold=self.threshold, framed=True)
        (cosines,) = self.recognizer.class_scores(pixels, framed=True)
        (identified,) = self.recognizer.identify(pixels, threshold=self.threshold, num_matches=SHOWN, framed=True)
        assert not isinstance(found, ImageError)  # the picture was read before
        assert not isinstance(identified, ImageError)

        limits = self._limits
        kinds = [("class", found.name, found.cosine, found.unknown, limits.classification)]
        if identified.matches:
            kinds.append(("enrolled", *identified.matches[0], identified.name is None, limits.verification))
        answers = [
            _row(name, cosine, kind=kind, unknown=unknown, guess=limit is None)
            for kind, name, cosine, unknown, limit in kinds
        ]
        names, counts = self.recognizer.class_names, self.recognizer.gallery.counts
        shown = range(len(names)) if len(names) <= SHOWN else cosines.topk(SHOWN).indices.tolist()
        enrolled = [_row(*match, images=counts[match.name]) for match in identified.matches]
        if len(counts) <= SHOWN:
            enrolled.sort(key=lambda row: list(map(printable, counts)).index(row["label"]))
        return {
            "decision": max(answers, key=lambda answer: (not answer["unknown"], answer["cosine"])),
            "classes": [_row(names[index], float(cosines[index])) for index in shown],
            "enrolled": enrolled,
            "input": _data_url(pixels[0]),
        }

    def enroll(self, name: str, content: bytes) -> dict[str, Any]:
        """Enroll a picture under a new or existing name; return the enrolled names.

        Raises:
            UserError: If the name or picture cannot be used, or the gallery cannot be written.
        """
        name = " ".join(name.split())
        if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
            raise UserError(expected("name", name, f"1 to {MAX_NAME} printable characters"))
        pixels = self._pixels(content)
        with self.editing():
            self.recognizer.enroll(name, pixels, framed=True)
        return self._names()

    def remove(self, name: str) -> dict[str, Any]:
        """Forget a name and its pictures; return the enrolled names.

        Raises:
            UserError: If there is no such name, or the gallery cannot be written.
        """
        with self.editing():
            shown = {printable(each): each for each in self.recognizer.gallery.counts}
            self.recognizer.remove(shown.get(name, name))
        return self._names()

    @property
    def _limits(self) -> Thresholds:
        return self.recognizer.thresholds if self.threshold is None else Thresholds(self.threshold, self.threshold)

    def _names(self) -> dict[str, Any]:
        rows = [{"label": printable(name), "images": count} for name, count in self.recognizer.gallery.counts.items()]
        return {"num_enrolled": len(rows), "enrolled": rows[-SHOWN:]}

    def _pixels(self, content: bytes) -> Tensor:
        if not content:
            raise UserError("picture: got an empty request; expected a picture file")
        found = frame(content, self.recognizer.model.preprocessor)
        if isinstance(found, ImageError):
            raise ImageError(str(found).removeprefix("picture: ")) from found
        return found[None]


def _row(label: str, cosine: float, **more: Any) -> dict[str, Any]:
    return {"label": printable(label), "cosine": cosine, "angle_degrees": _degrees(cosine), **more}


def _degrees(cosine: float | None) -> float | None:
    return None if cosine is None else math.degrees(math.acos(max(-1.0, min(1.0, cosine))))


def _data_url(pixels: Tensor) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(2).numpy()).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
