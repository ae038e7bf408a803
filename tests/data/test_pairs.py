"""Lists of pairs, and the images they name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from faces import write_faces

from arcface_pl.data import DataError, PairsDataModule
from arcface_pl.data.folders.pairs_file import read_pairs
from arcface_pl.preprocessing import Preprocessor, read_image

LFW = (
    "2\t2\n"
    "Ann\t1\t2\nBob\t1\t3\nAnn\t1\tBob\t2\nBob\t1\tCleo\t1\n"
    "Ann\t3\t4\nCleo\t2\t1\nAnn\t2\tCleo\t1\nBob\t1\tAnn\t4\n"
)


def listing(folder: Path, text: str, name: str = "pairs.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestReading:
    def test_labeled_faces_in_the_wild(self, tmp_path: Path) -> None:
        found = read_pairs(listing(tmp_path, LFW))
        assert found.pairs[0][:3] == (("Ann", 1), ("Ann", 2), True)
        assert found.pairs[7][:3] == (("Bob", 1), ("Ann", 4), False)
        assert [pair.is_genuine for pair in found.pairs] == [True, True, False, False] * 2
        assert [pair.line for pair in found.pairs] == list(range(2, 10))
        assert found.folds.tolist() == [0] * 4 + [1] * 4

    def test_a_list_without_folds_is_dealt_kind_by_kind(self, tmp_path: Path) -> None:
        text = "12\n" + "".join(f"Ann\t{n}\t{n + 1}\n" for n in range(1, 13)) + "Ann\t1\tBob\t2\n" * 12
        found = read_pairs(listing(tmp_path, text))
        genuine = torch.tensor([pair.is_genuine for pair in found.pairs])
        assert found.folds.unique().tolist() == list(range(10))
        for kind in (genuine, ~genuine):
            assert sorted(torch.bincount(found.folds[kind]).tolist()) == [1] * 8 + [2] * 2

    def test_paths(self, tmp_path: Path) -> None:
        text = "# made up\na/1.png a/2.png 1\n\na/1.png b/1.png 0\na/2.png b/2.png 0\nb/1.png b/2.png 1\n"
        found = read_pairs(listing(tmp_path, text))
        assert found.pairs[1] == ("a/1.png", "b/1.png", False, 4)
        assert found.folds.tolist() == [0, 0, 1, 1]

    def test_tabs_let_names_have_spaces(self, tmp_path: Path) -> None:
        found = read_pairs(listing(tmp_path, "Zoë B/my cat.png\tx.png\t1\n"))
        assert found.pairs[0][:3] == ("Zoë B/my cat.png", "x.png", True)
        assert found.folds.tolist() == [0]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", r"has no pairs; expected 'name 1 2'"),
            ("# nothing\n\n", r"has no pairs"),
            ("a.png b.png 2\n", r"line 1: got 'a\.png b\.png 2'; expected .*'path path 1'"),
            ("a.png b.png 1\n\na.png\n", r"line 3: got 'a\.png'"),
            ("1 1\nAnn 1 2\nAnn 1 Bob\n", r"line 3: got 'Ann 1 Bob'; expected 'name 1 2' or 'name 1 other 2'"),
            ("1 1\nAnn one 2\nAnn 1 Bob 1\n", r"line 2: got 'Ann one 2'"),
            ("1 1\nAnn 1 2\nAnn 1 Ann 2\n", r"line 3: got 'Ann 1 Ann 2'"),
            ("10 300\nAnn 1 2\n", r"line 1: says 10 x 300 pairs of each kind, but 1 pairs follow"),
            ("2 1\nAnn 1 2\nAnn 2 3\nAnn 1 Bob 1\nAnn 2 Bob 1\n", r"line 2: fold 1 has 2 pairs of one person, says 1"),
            ("0 0\n", r"line 1: says 0 x 0"),
            ("1 1\nAnn 1 01\nAnn 1 Bob 2\n", r"line 2: got 'Ann 1 twice'; expected two different images"),
            ("a.png b.png 0\na.png a.png 1\n", r"line 2: got 'a\.png twice'; expected two different images"),
        ],
    )
    def test_a_wrong_line_is_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(DataError, match=rf"pairs\.txt.*(?:{message})"):
            read_pairs(listing(tmp_path, text))

    def test_no_list(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"gone\.txt'; expected a list of pairs .No such file"):
            read_pairs(tmp_path / "gone.txt")
        (tmp_path / "pairs.txt").write_bytes(b"\xff\xfe\x00picture")
        with pytest.raises(DataError, match="not UTF-8 text"):
            read_pairs(tmp_path / "pairs.txt")


def ready(root: Path, pairs_file: Path, **kwargs: Any) -> PairsDataModule:
    data = PairsDataModule(str(root), str(pairs_file), **kwargs)
    data.use_preprocessing(Preprocessor(32, 3, (0.5,) * 3, (0.5,) * 3))
    data.setup("test")
    return data


FACES = "1 2\nPerson_000 1 2\nPerson_001 1 3\nPerson_000 1 Person_002 1\nPerson_001 3 Person_000 2\n"


class TestImages:
    @pytest.mark.parametrize("suffix", ["jpg", "png", "JPG"])
    def test_each_image_comes_once_in_the_order_it_is_named(self, tmp_path: Path, suffix: str) -> None:
        root = write_faces(tmp_path / "faces", people=3, pictures=3, size=40, suffix=suffix)
        data = ready(root, listing(tmp_path, FACES), eval_batch_size=2)
        assert (data.num_test, data.class_names) == (5, ["Person_000", "Person_001", "Person_002"])
        assert data.pairs.first.tolist() == [0, 2, 0, 3]
        assert data.pairs.second.tolist() == [1, 3, 4, 1]
        assert data.pairs.is_genuine.tolist() == [True, True, False, False]
        assert data.pairs.folds.tolist() == [0, 1, 0, 1]
        batches = list(data.test_dataloader())
        assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 1, 1, 2]
        expected = Preprocessor(32, 3, (0.5,) * 3, (0.5,) * 3)(
            read_image(root / "Person_002" / f"Person_002_0001.{suffix}", 3)
        )
        assert torch.equal(torch.cat([images for images, _ in batches])[4], expected)

    def test_a_flat_folder_and_paths(self, tmp_path: Path) -> None:
        root = write_faces(tmp_path / "faces", people=2, pictures=2, size=40)
        for path in list(root.glob("*/*")):
            path.rename(root / path.name)
        data = ready(root, listing(tmp_path, "1 1\nPerson_000 1 2\nPerson_000 1 Person_001 2\n"))
        assert data.num_test == 3
        paths = ready(root, listing(tmp_path, "Person_000_0001.jpg Person_000_0002.jpg 1\n", "paths.txt"))
        assert paths.num_test == 2

    def test_every_image_that_is_missing_is_named_once(self, tmp_path: Path) -> None:
        root = write_faces(tmp_path / "faces", people=2, pictures=2, size=40)
        text = "1 2\nPerson_000 1 9\nPerson_001 1 2\nPerson_000 9 Person_001 1\nPerson_001 2 Nobody 1\n"
        with pytest.raises(DataError) as raised:
            ready(root, listing(tmp_path, text))
        message = str(raised.value)
        assert "pairs.txt: 2 images are not in" in message
        assert "line 2: Person_000/Person_000_0009, line 5: Nobody/Nobody_0001; expected" in message

    def test_an_image_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        root = write_faces(tmp_path / "faces", people=3, pictures=3, size=40)
        (root / "Person_002" / "Person_002_0001.jpg").write_bytes(b"no picture")
        with pytest.raises(DataError, match=r"1 of 5 images cannot be read: .*Person_002_0001\.jpg"):
            list(ready(root, listing(tmp_path, FACES)).test_dataloader())

    def test_there_is_nothing_to_train_on(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="got 'PairsDataModule'; expected a data module with training images"):
            PairsDataModule(str(tmp_path), "pairs.txt").setup("fit")

    @pytest.mark.parametrize("settings", [{"eval_batch_size": 0}, {"num_workers": -1}])
    def test_wrong_settings_are_named(self, settings: dict[str, int]) -> None:
        ((name, value),) = settings.items()
        with pytest.raises(ValueError, match=f"{name}.*got {value}"):
            PairsDataModule("faces", "pairs.txt", **settings)


@pytest.mark.parametrize(
    "text",
    [
        f"{'9' * 9}\nAnn 1 2\nAnn 1 Bob 2\n",
        "1000000 1000000\nAnn 1 2\nAnn 1 Bob 2\n",
        f"{'9' * 5000}\nAnn 1 2\n",
        f"1\nAnn {'9' * 5000} 2\nAnn 1 Bob 2\n",
        f"1\n{'A' * 5000} 1 2\nAnn 1 Bob 2\n",
        f"{'a' * 5000}.png b.png 1\n",
        "a\0.png b.png 1\n",
    ],
)
def test_lists_that_ask_for_the_impossible_are_refused(tmp_path: Path, text: str) -> None:
    data = PairsDataModule(str(tmp_path), str(listing(tmp_path, text)))
    with pytest.raises(DataError, match="pairs"):
        data.setup("test")


def test_a_missing_list_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data.pairs_file: got '.*nothing.txt'; expected a list of pairs .No such file"):
        PairsDataModule(str(tmp_path), str(tmp_path / "nothing.txt")).setup("test")
