"""The known data sets: files, checksums, mirrors and properties of the images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FileSpec:
    """A file of a data set.

    Attributes:
        name: File name, such as ``train-images-idx3-ubyte.gz``. The unpacked file is accepted instead of a ``.gz``.
        md5: Checksum of the file.
        content_md5: Checksum of the content of a ``.gz``, or None if unknown.
    """

    name: str
    md5: str
    content_md5: str | None = None


@dataclass(frozen=True)
class DatasetSpec:
    """A data set: its files, and the properties of its images.

    Attributes:
        name: The value of ``--data.dataset``.
        title: Its usual name.
        mean: Mean of the training pixels per channel, on a scale of 0 to 1.
        std: Standard deviation of the training pixels per channel.
        class_names: Names of the classes, in label order.
        in_channels: Channels per image.
        image_size: Height and width of the images, in pixels.
        num_train: Number of training images.
        num_test: Number of test images.
        folder: Subfolder of the data folder, as in torchvision.
        files: Required files: training images and labels, test images and labels; for CIFAR-10 the batches.
        archive: Archive of the files, if they are not downloaded one by one.
        mirrors: URLs that the name of a file or of the archive is appended to, tried in this order.
    """

    name: str
    title: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...] = tuple("0123456789")
    in_channels: int = 1
    image_size: int = 28
    num_train: int = 60_000
    num_test: int = 10_000
    folder: str = ""
    files: tuple[FileSpec, ...] = ()
    archive: FileSpec | None = None
    mirrors: tuple[str, ...] = ()


def _idx_files(md5s: str, contents: str = "") -> tuple[FileSpec, ...]:
    names = (f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
    return tuple(FileSpec(*file) for file in zip(names, md5s.split(), contents.split() or (None,) * 4, strict=True))


_MNIST = DatasetSpec(
    name="mnist",
    title="MNIST",
    mean=(0.1307,),
    std=(0.3081,),
    folder="MNIST/raw",
    files=_idx_files(
        "f68b3c2dcbeaaa9fbdd348bbdeb94873 d53e105ee54ea40749a09fcbcd1e9432 "
        "9fb629c4189551a2d022fa330f9573f3 ec29112dd5afa0611ce80d1b7f02629c",
        "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
        "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
)

_FASHION_MNIST = DatasetSpec(
    name="fashion_mnist",
    title="Fashion-MNIST",
    class_names=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    mean=(0.2860,),
    std=(0.3530,),
    folder="FashionMNIST/raw",
    files=_idx_files(
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d 25c81989df183df01b3e8a0aad5dffbe "
        "bef4ecab320f06d8554ea6380940ec79 bb300cfdad3c16e7a12a480ee83cd310",
        "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9 "
        "8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965",
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
)

_KMNIST = DatasetSpec(
    name="kmnist",
    title="KMNIST",
    class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    mean=(0.1918,),
    std=(0.3483,),
    folder="KMNIST/raw",
    files=_idx_files(
        "bdb82020997e1d708af4cf47b453dcf7 e144d726b3acfaa3e44228e80efcd344 "
        "5c965bf0a639b31b8f53240b1b52f4d7 7320c461ea6c1c855c0b718fb2a4b134",
    ),
    mirrors=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
)

_CIFAR10 = DatasetSpec(
    name="cifar10",
    title="CIFAR-10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    in_channels=3,
    image_size=32,
    num_train=50_000,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    folder="cifar-10-batches-py",
    files=(
        FileSpec("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        FileSpec("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        FileSpec("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        FileSpec("data_batch_4", "634d18415352ddfa80567beed471001a"),
        FileSpec("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
        FileSpec("test_batch", "40351d587109b95175f43aff81a1287e"),
    ),
    archive=FileSpec("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    mirrors=("https://www.cs.toronto.edu/~kriz/",),
)

_DIGITS_OF_SKLEARN = DatasetSpec(
    name="digits",
    title="scikit-learn's digits",
    num_train=1_438,
    num_test=359,
    mean=(0.1595,),
    std=(0.2989,),
)

CATALOG = {spec.name: spec for spec in (_MNIST, _FASHION_MNIST, _KMNIST, _CIFAR10, _DIGITS_OF_SKLEARN)}

_OMNIGLOT_MIRRORS = tuple(
    f"https://{host}/python/{folder}"
    for folder in ("", "one-shot-classification/")
    for host in ("raw.githubusercontent.com/brendenlake/omniglot/master", "github.com/brendenlake/omniglot/raw/master")
)

OMNIGLOT = DatasetSpec(
    name="omniglot",
    title="Omniglot",
    mean=(0.078,),  # of ink
    std=(0.233,),
    image_size=105,
    num_train=19_280,
    num_test=13_180,
    folder="omniglot-py",
    files=(
        FileSpec("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718"),
        FileSpec("images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811"),
    ),
    mirrors=_OMNIGLOT_MIRRORS[:2],
)

OMNIGLOT_RUNS = DatasetSpec(
    name="omniglot_runs",
    title="Omniglot's one-shot runs",
    mean=OMNIGLOT.mean,
    std=OMNIGLOT.std,
    folder=OMNIGLOT.folder,
    files=(FileSpec("all_runs.zip", "e8996daecdf12afeeb4a53a179f06b19"),),
    mirrors=_OMNIGLOT_MIRRORS[2:],
)


def _counts(text: str) -> dict[str, int]:
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


BACKGROUND_ALPHABETS = _counts(
    "Alphabet_of_the_Magi 20 Anglo-Saxon_Futhorc 29 Arcadian 26 Armenian 41 Asomtavruli_(Georgian) 40 Balinese 24 "
    "Bengali 46 Blackfoot_(Canadian_Aboriginal_Syllabics) 14 Braille 26 Burmese_(Myanmar) 34 Cyrillic 33 "
    "Early_Aramaic 22 Futurama 26 Grantha 43 Greek 24 Gujarati 48 Hebrew 22 "
    "Inuktitut_(Canadian_Aboriginal_Syllabics) 16 Japanese_(hiragana) 52 Japanese_(katakana) 47 Korean 40 Latin 26 "
    "Malay_(Jawi_-_Arabic) 40 Mkhedruli_(Georgian) 41 N_Ko 33 Ojibwe_(Canadian_Aboriginal_Syllabics) 14 Sanskrit 42 "
    "Syriac_(Estrangelo) 23 Tagalog 17 Tifinagh 55"
)
"""Characters per alphabet of Omniglot's background part."""

EVALUATION_ALPHABETS = _counts(
    "Angelic 20 Atemayar_Qelisayer 26 Atlantean 26 Aurek-Besh 26 Avesta 26 Ge_ez 26 Glagolitic 45 Gurmukhi 45 "
    "Kannada 41 Keble 26 Malayalam 47 Manipuri 40 Mongolian 30 Old_Church_Slavonic_(Cyrillic) 45 Oriya 46 Sylheti 28 "
    "Syriac_(Serto) 23 Tengwar 25 Tibetan 42 ULOG 26"
)
"""Characters per alphabet of Omniglot's evaluation part."""
