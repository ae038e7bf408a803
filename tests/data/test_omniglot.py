import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alphabets import BACKGROUND, DRAWERS, archives, drawings, members, use_made_up, write_archives
from loopback import serve

from arcface_pl.data import DataError, OmniglotDataModule
from arcface_pl.data.sources import catalog
from arcface_pl.data.sources.omniglot_files import shrink

INK = drawings()
FILES = members(INK)
PACKED = archives(FILES)
GREEK = "images_background/Greek/character02/0005_07.png"


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    use_made_up(monkeypatch, PACKED)


@pytest.fixture
def zipped(tmp_path: Path) -> Path:
    return write_archives(tmp_path / "data", PACKED)


def ready(**kwargs: Any) -> OmniglotDataModule:
    data = OmniglotDataModule(**{"augment": False, "normalize": False, "image_size": 35, **kwargs})
    data.prepare_data()
    data.setup("fit")
    return data


def contents(loader: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = (torch.cat(each) for each in zip(*loader, strict=True))
    return (255 * images).round().to(torch.uint8), labels


def thirds(ink: np.ndarray) -> torch.Tensor:
    """Mean of each block of 3 x 3 pixels, computed without the package: 105 = 3 x 35."""
    means = ink.reshape(-1, 35, 3, 35, 3).mean((2, 4)) * 255
    return torch.from_numpy(means.round().astype(np.uint8))[:, None]


@pytest.mark.usefixtures("zipped")
class TestParts:
    def test_the_background_trains_and_the_evaluation_is_held_out(self) -> None:
        data = ready()
        assert data.class_names == [
            *(f"Arcadian/character0{number}" for number in (1, 2, 3)),
            *(f"{alphabet}/character0{number}" for alphabet in ("Greek", "N_Ko") for number in (1, 2)),
        ]
        assert data.held_out_class_names[:3] == [f"Tengwar/character0{number}" for number in (1, 2, 3)]
        assert (data.num_train, data.num_val, data.num_test) == (140, 0, 0)
        images, labels = contents(data.train_sample_dataloader())
        assert images.equal(thirds(INK["images_background"]))
        assert labels.equal(torch.arange(7).repeat_interleave(DRAWERS))
        images, labels = contents(data.held_out_dataloader("test"))
        assert images.equal(thirds(INK["images_evaluation"]))
        assert labels.equal(torch.arange(5).repeat_interleave(DRAWERS))
        assert data.held_out_dataloader("val") == []

    def test_the_seed_draws_the_alphabets(self) -> None:
        chosen = {tuple(ready(held_out_classes=1, seed=seed).held_out_class_names) for seed in range(5)}
        assert len(chosen) > 1

    @pytest.mark.parametrize("held_out", [["Greek"], 1, 0.34])
    def test_whole_alphabets_validate(self, held_out: Any) -> None:
        data = ready(held_out_classes=held_out, seed=3)
        trained, held = (
            {name.split("/")[0] for name in names} for names in (data.class_names, data.held_out_class_names)
        )
        validating = held - {"Tengwar", "ULOG"}
        assert trained | validating == set(BACKGROUND)
        assert len(validating) == 1
        assert not trained & held
        images, labels = contents(data.held_out_dataloader("val"))
        names = [data.held_out_class_names[label] for label in labels.tolist()]
        start = sum(count for name, count in BACKGROUND.items() if name < min(validating)) * DRAWERS
        assert images.equal(thirds(INK["images_background"])[start : start + len(names)])
        assert {name.split("/")[0] for name in names} == validating
        tested = contents(data.held_out_dataloader("test"))[1]
        assert {data.held_out_class_names[label].split("/")[0] for label in tested.tolist()} == {"Tengwar", "ULOG"}
        assert data.num_train == (7 - len(set(names))) * DRAWERS

    def test_rotated_characters_are_further_classes(self) -> None:
        data = ready(rotations=True, held_out_classes=["N_Ko"])
        upright = ready(held_out_classes=["N_Ko"])
        assert data.num_classes == 4 * upright.num_classes == 20
        assert data.class_names[5:7] == ["Arcadian/character01 rotated 90", "Arcadian/character02 rotated 90"]
        images, labels = contents(data.train_sample_dataloader())
        once = contents(upright.train_sample_dataloader())[0]
        for turn in range(4):
            chosen = labels // 5 == turn
            assert images[chosen].equal(torch.from_numpy(np.rot90(once.numpy(), turn, (2, 3)).copy()))
            assert labels[chosen].equal(5 * turn + torch.arange(5).repeat_interleave(DRAWERS))
        for split in ("val", "test"):  # never turned
            one, other = (contents(each.held_out_dataloader(split)) for each in (data, upright))
            assert one[0].equal(other[0])
            assert one[1].equal(other[1])

    def test_a_share_of_the_drawings_validates_on_trained_characters(self) -> None:
        data = ready(val_fraction=0.1, rotations=True)
        assert (data.num_train, data.num_val) == (7 * 4 * 18, 7 * 4 * 2)

    def test_official_runs_index_the_evaluation_drawings(self) -> None:
        first, second = ready().one_shot_runs["test"]
        assert first.enrolled.tolist() == [character * DRAWERS + 4 for character in (0, 1, 2)]
        assert first.queries.tolist() == [character * DRAWERS + 7 for character in (2, 1, 0)]
        assert first.targets.tolist() == [2, 1, 0]
        assert second.enrolled[second.targets].tolist() == [80, 60]
        assert second.queries.tolist() == [99, 79]

    def test_validation_runs_stay_within_an_alphabet_and_compare_two_people(self) -> None:
        data = ready(held_out_classes=["Arcadian", "N_Ko"])
        _, labels = contents(data.held_out_dataloader("val"))
        runs = data.one_shot_runs["val"]
        assert len(runs) == 80
        for run in runs:
            assert labels[run.enrolled[run.targets]].equal(labels[run.queries])
            assert len({data.held_out_class_names[label].split("/")[0] for label in labels[run.enrolled].tolist()}) == 1
            assert len(set(labels[run.enrolled].tolist())) == len(run.enrolled)
            drawers = [set((each % DRAWERS).tolist()) for each in (run.enrolled, run.queries)]
            assert [len(each) for each in drawers] == [1, 1]
            assert drawers[0] != drawers[1]
        again = ready(held_out_classes=["Arcadian", "N_Ko"], seed=9).one_shot_runs["val"]
        assert all(one.enrolled.equal(other.enrolled) for one, other in zip(runs, again, strict=True))


class TestFiles:
    def test_unpacked_folders_are_read_alike(self, zipped: Path, tmp_path: Path) -> None:
        other = tmp_path / "unpacked" / "omniglot-py"
        other.mkdir(parents=True)
        for name in FILES:
            with zipfile.ZipFile(zipped / f"{name}.zip") as archive:
                archive.extractall(other if name != "all_runs" else other / name)
        packed, unpacked = ready(), ready(data_dir=tmp_path / "unpacked")
        assert unpacked.state_dict() == packed.state_dict()  # has the fingerprint of all images
        for one, other_run in zip(packed.one_shot_runs["test"], unpacked.one_shot_runs["test"], strict=True):
            assert all(a.equal(b) for a, b in zip(one, other_run, strict=True))

    @pytest.mark.parametrize(
        ("name", "member", "content", "message"),
        [
            ("images_background", GREEK, None, "no image of drawer 7'; expected Greek/character02"),
            ("images_evaluation", "images_evaluation/ULOG/character01/0011_03.png", b"no PNG", "cannot be read"),
            ("all_runs", "run02/class_labels.txt", b"", "no pair of images in run02/class_labels.txt"),
            ("all_runs", "run01/test/item02.png", FILES["images_background"][GREEK], "another image in run01/test/"),
            ("all_runs", "run01/training/class01.png", None, "cannot be read"),
        ],
    )
    def test_what_is_missing_or_damaged_is_named(
        self, tmp_path: Path, name: str, member: str, content: bytes | None, message: str
    ) -> None:
        changed = {member: content} if content is not None else {}
        others = {path: each for path, each in FILES[name].items() if path != member}
        write_archives(tmp_path / "data", {**PACKED, **archives({name: {**others, **changed}})})
        with pytest.raises(DataError, match=f"{name}.zip.*{message}") as caught:
            ready()
        assert "\n" not in str(caught.value)

    def test_a_broken_archive_is_named(self, zipped: Path) -> None:
        (zipped / "images_background.zip").write_bytes(PACKED["images_background.zip"][:1000])
        with pytest.raises(DataError, match=r"images_background.zip: cannot be read: File is not a zip file"):
            ready()

    def test_without_the_runs_everything_else_works(self, zipped: Path, caplog: pytest.LogCaptureFixture) -> None:
        (zipped / "all_runs.zip").unlink()
        with caplog.at_level(logging.WARNING):
            data = ready()
        assert data.one_shot_runs["test"] == []
        assert "Omniglot's one-shot runs is missing" in caplog.text


class TestDownload:
    def test_archives_come_from_the_first_mirror_that_has_them(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        with serve(PACKED) as server:
            use_made_up(monkeypatch, PACKED, (server.mirror("404"), server.mirror("good")))
            data = ready(data_dir=tmp_path / "fresh")
        assert data.num_train == 140
        assert len(data.one_shot_runs["test"]) == 2
        found = sorted(path.name for path in (tmp_path / "fresh/omniglot-py").iterdir())
        assert found == ["all_runs.zip", "images_background.zip", "images_evaluation.zip"]
        asked = [path for path, _ in server.requests]
        assert asked[:2] == ["/404/images_background.zip", "/good/images_background.zip"]

    def test_a_wrong_checksum_leaves_nothing_behind(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        with serve(PACKED) as server:
            use_made_up(monkeypatch, PACKED, (server.mirror("wrong"),))
            with pytest.raises(
                DataError, match=r"(?s)expected a file with md5 [0-9a-f]{32}.*images_evaluation.zip  md5"
            ):
                ready(data_dir=tmp_path / "fresh")
        assert list((tmp_path / "fresh/omniglot-py").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 106}, "image_size: got 106; expected at most 105"),
        ({"image_size": 7}, "image_size: got 7"),
        ({"resize": "nearest"}, "resize: got 'nearest'"),
        ({"watch_test": True}, "watch_test: got True"),
        ({"data_dir": ""}, "data_dir: got ''"),
        ({"classes": ["Latin"]}, "classes: got 'Latin'; expected 'Arcadian', 'Greek', 'N_Ko'"),
        ({"held_out_classes": ["Greek", "ULOG"]}, "held_out_classes: got 'ULOG'"),
        ({"held_out_classes": 3}, "held_out_classes: got 3; expected a list of classes, 1 to 2 of the 3"),
        ({"held_out_classes": list(BACKGROUND)}, r"classes: got \[\]; expected at least one to train on"),
        ({"classes": ["Greek"], "held_out_classes": ["Greek"]}, "not in classes too"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OmniglotDataModule(**arguments)


def test_a_pixel_has_its_share_of_ink_at_any_size() -> None:
    ink = INK["images_evaluation"][:3]
    for size in (8, 28, 32, 105):
        small = shrink(ink, size, bold=False).float() / 255
        # rounding to 1/255 changes the mean by at most half of it
        assert (small.mean((1, 2, 3)) - torch.from_numpy(ink.mean((1, 2)))).abs().max() <= 0.5 / 255
    assert shrink(ink, 105, bold=False)[:, 0].bool().equal(torch.from_numpy(ink))
    line = np.zeros((1, 105, 105), bool)
    line[0, 50, 20:80] = True
    bold = shrink(line, 105, bold=True)[0, 0].bool()
    assert bold.nonzero().aminmax(dim=0).min.tolist() == [49, 19]
    assert bold.sum() == 3 * 62


def test_the_catalog_has_the_published_numbers_of_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert (len(catalog.BACKGROUND_ALPHABETS), sum(catalog.BACKGROUND_ALPHABETS.values())) == (30, 964)
    assert (len(catalog.EVALUATION_ALPHABETS), sum(catalog.EVALUATION_ALPHABETS.values())) == (20, 659)
    torchvision = pytest.importorskip("torchvision")
    known = torchvision.datasets.Omniglot
    assert {file.name: file.md5 for file in catalog.OMNIGLOT.files} == {
        f"{name}.zip": md5 for name, md5 in known.zips_md5.items()
    }
    assert catalog.OMNIGLOT.folder == known.folder


def test_thousands_of_names_are_not_made_anew_for_each_class() -> None:
    class Counting(OmniglotDataModule):
        asked = 0

        @property
        def all_class_names(self) -> list[str]:
            self.asked += 1
            return [f"{number}" for number in range(7 * 4 + 5)]

    data = Counting(rotations=True)
    data.asked = 0
    assert (len(data.class_names), len(data.held_out_class_names)) == (28, 5)
    assert data.asked <= 4  # by the names and by the split, each
