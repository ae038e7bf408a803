import math
from collections.abc import Callable

import pytest
import torch

from arcface_pl.data import Augmentation, BatchLoader, LabelledImages
from arcface_pl.preprocessing import normalize_images

PLAIN = ((0.0,), (1.0,))


def numbered(count: int, channels: int = 1) -> LabelledImages:
    """Images that show where their number is: labels hold it."""
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, channels, 8, 8), generator=generator, dtype=torch.uint8)
    return LabelledImages(images, torch.arange(count))


def loader(count: int, batch_size: int, **kwargs: object) -> BatchLoader:
    return BatchLoader(numbered(count), batch_size=batch_size, **{"normalization": PLAIN, **kwargs})


def numbers(batches: BatchLoader) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_in_order_every_image_comes_once_and_as_it_is() -> None:
    data = numbered(10)
    images, labels = zip(*loader(10, 4), strict=True)
    assert torch.cat(labels).tolist() == list(range(10))
    assert torch.equal(torch.cat(images), data.images / 255)
    for count in (1, 7, 8, 9):  # a share of the batches is taken of this number
        assert len(loader(count, 4)) == math.ceil(count / 4)


def test_types_shapes_and_memory_format() -> None:
    data = numbered(6, channels=3)
    normalization = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    images, labels = next(iter(BatchLoader(data, batch_size=6, normalization=normalization)))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, normalize_images(data.images, *normalization))
    augmented, _ = next(
        iter(BatchLoader(data, batch_size=6, normalization=normalization, augmentation=Augmentation(rotation=5)))
    )
    assert augmented.is_contiguous(memory_format=torch.channels_last)


def test_shuffled_every_image_comes_once_and_the_last_batch_is_short() -> None:
    batches = numbers(loader(10, 4, shuffle=True))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    together = [number for batch in batches for number in batch]
    assert sorted(together) == list(range(10))
    assert together != list(range(10))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = loader(50, 8, shuffle=True, seed=seed)
        batches.set_epoch(epoch)
        return numbers(batches)

    assert order(0, 0) == order(0, 0)
    assert len({str(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_iterating_again_gives_the_same_epoch_again() -> None:
    batches = loader(50, 8, shuffle=True, augmentation=Augmentation(rotation=10, shift=1))
    first, second = list(batches), list(batches)
    for (images, labels), (images_again, labels_again) in zip(first, second, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)


def test_global_random_state_is_neither_used_nor_changed() -> None:
    batches = loader(20, 8, shuffle=True, augmentation=Augmentation(rotation=10))
    torch.manual_seed(1)
    first = [images for images, _ in batches]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert all(torch.equal(a, b) for a, (b, _) in zip(first, batches, strict=True))


def test_every_image_is_changed_by_a_draw_of_its_own_and_by_another_in_the_next_epoch() -> None:
    same = LabelledImages(numbered(1).images.repeat(64, 1, 1, 1), torch.arange(64))
    batches = BatchLoader(same, batch_size=64, normalization=PLAIN, augmentation=Augmentation(rotation=15, shift=1))
    seen = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        images, _ = next(iter(batches))
        seen.append(images)
    assert len(torch.cat(seen).flatten(1).unique(dim=0)) == 128


@pytest.mark.parametrize("done", range(5))
def test_an_epoch_goes_on_where_it_was(done: int) -> None:
    kwargs = {"shuffle": True, "augmentation": Augmentation(rotation=10, shift=1, zoom=0.1)}
    whole = loader(30, 8, **kwargs)
    whole.set_epoch(3)
    rest = loader(30, 8, position=lambda: (3, done), **kwargs)
    assert len(rest) == 4
    for (images, labels), (images_whole, labels_whole) in zip(rest, list(whole)[done:], strict=True):
        assert torch.equal(images, images_whole)
        assert torch.equal(labels, labels_whole)


def test_the_position_is_asked_for_with_the_first_batch_not_before() -> None:
    position = (0, 0)
    iterator = iter(loader(30, 8, shuffle=True, position=lambda: position))
    position = (2, 3)
    whole = loader(30, 8, shuffle=True)
    whole.set_epoch(2)
    assert [labels.tolist() for _, labels in iterator] == numbers(whole)[3:]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [12, 13, 17, 41])
class TestSharing:
    def shares(self, count: int, world_size: int, epoch: int = 0, **kwargs: object) -> list[list[list[int]]]:
        result = []
        for rank in range(world_size):
            batches = loader(count, 4, rank=rank, world_size=world_size, **kwargs)
            batches.set_epoch(epoch)
            result.append(numbers(batches))
            assert len(result[-1]) == len(batches)
        return result

    def test_in_order_every_image_goes_to_exactly_one_process(self, count: int, world_size: int) -> None:
        shares = self.shares(count, world_size)
        assert sorted(number for share in shares for batch in share for number in batch) == list(range(count))
        assert len({len(share) for share in shares}) == 1, "equally many batches"
        assert all(1 <= len(batch) <= 4 for share in shares for batch in share)

    def test_shuffled_all_get_equally_many_and_none_comes_twice(self, count: int, world_size: int) -> None:
        shares = self.shares(count, world_size, shuffle=True)
        assert len({tuple(len(batch) for batch in share) for share in shares}) == 1
        seen = [number for share in shares for batch in share for number in batch]
        assert len(seen) == len(set(seen)) == count - count % world_size

    def test_what_is_left_out_changes(self, count: int, world_size: int) -> None:
        left_out = [
            set(range(count))
            - {
                number
                for share in self.shares(count, world_size, epoch, shuffle=True)
                for batch in share
                for number in batch
            }
            for epoch in range(12)
        ]
        assert all(len(numbers) < world_size for numbers in left_out)
        if count % world_size:
            assert len(set().union(*left_out)) > world_size - 1

    def test_a_step_of_all_is_the_step_that_one_process_would_take(self, count: int, world_size: int) -> None:
        alone = numbers(loader(count, 4 * world_size, shuffle=True))
        for step, batch in enumerate(zip(*self.shares(count, world_size, shuffle=True), strict=True)):
            together = sorted(number for share in batch for number in share)
            if len(together) == 4 * world_size:
                assert set(together) <= set(alone[step])


def test_an_image_is_augmented_alike_however_many_processes_share() -> None:
    def images_by_number(world_size: int) -> dict[int, torch.Tensor]:
        kwargs = {
            "shuffle": True,
            "augmentation": Augmentation(rotation=15, shift=1, zoom=0.1),
            "world_size": world_size,
        }
        return {
            number: image
            for rank in range(world_size)
            for images, labels in loader(24, 4, rank=rank, **kwargs)
            for number, image in zip(labels.tolist(), images, strict=True)
        }

    alone, shared = images_by_number(1), images_by_number(3)
    assert alone.keys() == shared.keys()
    for number, image in alone.items():
        assert torch.equal(shared[number], image)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("per_process", [1, 2, 4, 5, 8, 9, 11])
def test_no_training_batch_is_a_single_image_left_over(per_process: int, world_size: int) -> None:
    """Batch normalization cannot train on one; the leftover image joins the batch before it."""
    usual = [4] * (per_process // 4) + [per_process % 4] * (per_process % 4 > 0)
    wanted = [*usual[:-2], 5] if usual[-1] == 1 and len(usual) > 1 else usual
    for rank in range(world_size):
        batches = loader(
            per_process * world_size,
            4,
            shuffle=True,
            rank=rank,
            world_size=world_size,
            augmentation=Augmentation(rotation=5),
        )
        assert [len(labels) for _, labels in batches] == wanted
        assert len(batches) == len(wanted)


def test_every_batch_is_a_single_image_where_that_is_asked_for() -> None:
    assert [len(batch) for batch in numbers(loader(5, 1, shuffle=True))] == [1] * 5


@pytest.mark.parametrize("shuffle", [True, False])
def test_as_many_images_as_processes(shuffle: bool) -> None:
    seen = [numbers(loader(3, 4, shuffle=shuffle, rank=rank, world_size=3)) for rank in range(3)]
    assert sorted(seen) == [[[0]], [[1]], [[2]]]


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="data: got '2 images'; expected at least one for each of 3 processes"):
        loader(2, 1, world_size=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", [lambda data: data, lambda data: data.to(torch.device("cuda"))], ids=["cpu", "cuda"])
def test_devices_agree(make: Callable[[LabelledImages], LabelledImages]) -> None:
    kwargs = {"batch_size": 16, "normalization": PLAIN, "shuffle": True, "augmentation": Augmentation(10, 1, 0.1)}
    reference = list(BatchLoader(numbered(50), **kwargs))
    for (images, labels), (expected, expected_labels) in zip(
        BatchLoader(make(numbered(50)), **kwargs), reference, strict=True
    ):
        assert torch.equal(labels.cpu(), expected_labels)
        torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-4)
