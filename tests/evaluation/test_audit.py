"""Labels of data modules: judged in the order of the images, by networks that have not seen them."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from arcface_pl import ArcFaceHead, MNISTDataModule
from arcface_pl.data import ImageDataModule, LabelledImages
from arcface_pl.errors import DataError
from arcface_pl.evaluation.audit import AuditedImages, cross_fit
from arcface_pl.heads import Head


class Planted(MNISTDataModule):
    """The digits, with labels of some training images changed."""

    def __init__(self, share: float = 0.05) -> None:
        super().__init__(dataset="digits", val_fraction=0.0, augment=False, seed=0)
        self.share = share

    def load(self) -> tuple[LabelledImages, LabelledImages]:
        (images, self.truth), test = super().load()
        generator = torch.Generator().manual_seed(5)
        chosen = torch.randperm(len(images), generator=generator)[: round(self.share * len(images))]
        labels = self.truth.clone()
        labels[chosen] = (labels[chosen] + torch.randint(1, 10, (len(chosen),), generator=generator)) % 10
        return LabelledImages(images, labels), test


@pytest.fixture(scope="module")
def planted() -> Planted:
    data = Planted()
    data.prepare_data()
    data.setup("fit")
    return data


class MeansOf:
    """Stands for training: class means of pixels as centers. Writes down the images it was given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, data: ImageDataModule) -> tuple[nn.Module, Head]:
        images, labels = (torch.cat(parts) for parts in zip(*data.train_sample_dataloader(), strict=True))
        self.seen.append(images)
        head = ArcFaceHead(784, 10)
        sums = torch.zeros(10, 784).index_add_(0, labels, nn.functional.normalize(images.flatten(1), dim=1))
        head.weight.data.copy_(sums)
        return nn.Flatten(), head


def test_each_training_image_is_judged_by_a_network_without_it_and_planted_labels_rise(planted: Planted) -> None:
    audited = AuditedImages.of(planted, ["train"])
    means = MeansOf()
    angles = cross_fit(planted, audited, 3, means, seed=1)
    whole = {each.numpy().tobytes() for each in audited.images(range(len(audited.labels)))}
    assert sum(map(len, means.seen)) == 2 * len(audited.labels)
    assert all({each.numpy().tobytes() for each in seen} < whole for seen in means.seen)
    wrong = audited.labels != planted.truth
    ranked = wrong[angles.ranked()]
    assert float(ranked[: len(ranked) // 10].sum() / wrong.sum()) > 0.9  # by chance 0.1
    assert not planted.train_dataloader().data.labels.equal(planted.truth)
    assert planted.num_train == len(audited.labels)  # as before


def test_a_class_in_one_fold_alone_has_no_angle(planted: Planted) -> None:
    nine = (planted.train_dataloader().data.labels == 9).nonzero().flatten()
    kept = torch.ones(planted.num_train, dtype=torch.bool)
    kept[nine[1:]] = False
    few = planted.training_on(kept.nonzero().flatten())
    audited = AuditedImages.of(few)
    assert set(audited.splits) == {"train", "test"}
    angles = cross_fit(few, audited, 2, MeansOf())
    train = torch.tensor([split == "train" for split in audited.splits])
    alone = train & (audited.labels == 9)
    assert alone.sum() == 1
    assert angles.target[alone].isnan().all()
    assert (audited.labels[angles.target.isnan()] == 9).all()
    assert angles.target[angles.ranked()[-1]].isnan()


def test_loaders_of_others_are_read_in_order() -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(40, 1, 8, 8, generator=generator), torch.arange(40) % 3

    class Theirs(L.LightningDataModule):
        def train_dataloader(self) -> DataLoader:
            return DataLoader(TensorDataset(images, labels), 7, shuffle=True)

    audited = AuditedImages.of(Theirs())
    assert audited.splits == ["train"] * 40
    assert audited.labels.equal(labels)
    assert audited.paths == [str(number) for number in range(40)]
    assert audited.images([11, 3]).equal(images[[11, 3]])
    assert audited.embed(nn.Flatten()).equal(images.flatten(1))
    with pytest.raises(DataError, match=r"data: got 'Theirs without any'; expected a data module with val images"):
        AuditedImages.of(Theirs(), ["val"])
