"""The known data sets: their files, checksums, mirrors and what every image of theirs is like."""

from dataclasses import dataclass

__all__ = ["CATALOG", "DatasetSpec", "FileSpec"]


@dataclass(frozen=True)
class FileSpec:
    """A file of a data set.

    Attributes:
        name: The file's name as it is downloaded, such as ``train-images-idx3-ubyte.gz``.
        md5: Checksum of the file as downloaded.
        content_md5: Checksum of what is inside a gzip file, or None where it is not known.
    """

    name: str
    md5: str
    content_md5: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: where its files lie, what they must be, and what the images are like.

    Attributes:
        name: The value of ``--data.dataset``.
        title: The name people use.
        folder: Where the files lie below a data folder, as torchvision lays them out.
        files: What must be there; for IDX sets train images, train labels, test images, test labels.
        mirrors: Addresses the files' names are appended to, tried in this order.
        class_names: The names of the classes, in label order.
        in_channels: Channels of an image.
        image_size: Height and width in pixels.
        num_train: Images in the training part.
        num_test: Images in the test part.
        mean: Mean of the training pixels for each channel, on the scale from 0 to 1.
        std: Their standard deviation.
    """

    name: str
    title: str
    folder: str
    files: tuple[FileSpec, ...]
    mirrors: tuple[str, ...]
    class_names: tuple[str, ...]
    in_channels: int
    image_size: int
    num_train: int
    num_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


_DIGITS = tuple("0123456789")


def _idx_files(*checksums: tuple[str, str | None]) -> tuple[FileSpec, ...]:
    names = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return tuple(FileSpec(name, md5, content) for name, (md5, content) in zip(names, checksums, strict=True))


CATALOG = {
    spec.name: spec
    for spec in (
        DatasetSpec(
            name="mnist",
            title="MNIST",
            folder="MNIST/raw",
            files=_idx_files(
                ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
                ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
                ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
                ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
            ),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            class_names=_DIGITS,
            in_channels=1,
            image_size=28,
            num_train=60_000,
            num_test=10_000,
            mean=(0.1307,),
            std=(0.3081,),
        ),
        DatasetSpec(
            name="digits",
            title="scikit-learn's digits",
            folder="",
            files=(),
            mirrors=(),
            class_names=_DIGITS,
            in_channels=1,
            image_size=28,
            num_train=1_437,
            num_test=360,
            mean=(0.1307,),
            std=(0.3081,),
        ),
    )
}
