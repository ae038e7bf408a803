"""What figures show, read back from their artists and held against the numbers that went in."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from arcface_pl.figures import (
    AngleHistory,
    ClosedSet,
    Evaluated,
    Mistakes,
    count_degrees,
    displayable,
    draw_angle_history,
    draw_angles,
    draw_center_angles,
    draw_circle,
    draw_confusion,
    draw_mistakes,
    draw_roc,
    draw_scores,
    draw_sphere,
    save_all,
)
from arcface_pl.figures.closest_centers import closest_pairs
from arcface_pl.figures.confusion import count_confusions, worst_confusions
from arcface_pl.figures.curves import draw_curves
from arcface_pl.figures.projection import draw_projection
from arcface_pl.figures.style import CLASS_COLORS, SERIES, save, shorten, thin, to_pixels
from arcface_pl.metrics.functional import center_angles, verification_curve


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts(axes: object) -> list[str]:
    return [text.get_text() for text in axes.texts]  # type: ignore[attr-defined]


def make_evaluated(num_classes: int, dim: int, *, noise: float, channels: int = 1, name: str = "{}") -> Evaluated:
    """Embeddings around random centers, with everything that follows from them."""
    generator = draws()
    centers = torch.randn(num_classes, dim, generator=generator)
    labels = torch.arange(3 * num_classes) % num_classes
    embeddings = F.normalize(centers, dim=1)[labels] + noise * torch.randn(len(labels), dim, generator=generator)
    cosine = F.normalize(embeddings, dim=1) @ F.normalize(centers, dim=1).T
    degrees = torch.rad2deg(cosine.clamp(-1, 1).acos())
    predictions = cosine.argmax(1)
    own, taken = (degrees.gather(1, each[:, None]).squeeze(1) for each in (labels, predictions))
    other = degrees.scatter(1, labels[:, None], torch.inf).amin(1)
    images = torch.randn(len(labels), channels, 8, 8, generator=generator)
    counts = count_degrees(own), count_degrees(other)
    closed = ClosedSet(
        centers=centers,
        sub_centers=1,
        confusion=torch.bincount(labels * num_classes + predictions, minlength=num_classes**2).view(num_classes, -1),
        angles=counts,
        mistakes=Mistakes(images, labels, predictions, own, taken).hardest(24).wrong_only(),
        num_wrong=int((labels != predictions).sum()),
        num_images=len(labels),
    )
    similar = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T
    upper = torch.triu(torch.ones_like(similar), 1).bool()
    same = labels[:, None] == labels
    return Evaluated(
        "test",
        [name.format(index) for index in range(num_classes)],
        embeddings,
        labels,
        curve=verification_curve(similar[upper & same], similar[upper & ~same]),
        closed=closed,
        angle_history=AngleHistory(torch.tensor([1]), counts[0][None], counts[1][None]),
    )


EVERY = {"roc", "scores", "confusion", "angles", "mistakes", "center_angles", "angles_over_training"}


@pytest.mark.parametrize(
    ("make", "also"),
    [
        (partial(make_evaluated, 2, 8, noise=0.0), set()),
        (partial(make_evaluated, 10, 2, noise=0.3, channels=3, name="$\\frac{{ class {} of ten"), {"embeddings"}),
        (partial(make_evaluated, 10, 3, noise=0.3, name="日本語 {}"), {"embeddings"}),
        pytest.param(
            partial(make_evaluated, 1000, 16, noise=0.4, name="class number {}"), set(), marks=pytest.mark.slow
        ),
    ],
    ids=["two classes, no mistake", "circle, colour, mathematics", "sphere, other script", "a thousand"],
)
def test_all_figures_become_files_without_a_warning(
    tmp_path: Path, make: Callable[[], Evaluated], also: set[str]
) -> None:
    evaluated = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = save_all(evaluated, tmp_path / "new" / "folder")
    assert {path.stem for path in paths} == EVERY | also
    for path in paths:
        with Image.open(path) as picture:
            assert max(picture.size) < 2000
            assert len(picture.convert("L").getcolors()) > 10  # something is drawn


def test_what_is_unknown_is_not_drawn(tmp_path: Path) -> None:
    embeddings, labels = torch.randn(20, 2, generator=draws()), torch.arange(20) % 2
    assert save_all(Evaluated("test", ["a", "b"], torch.randn(4, 8), torch.arange(4) % 2), tmp_path) == []
    assert [path.stem for path in save_all(Evaluated("test", ["a", "b"], embeddings, labels), tmp_path)] == [
        "embeddings"
    ]


def test_the_roc_is_that_of_the_curve_and_its_mark_the_equal_error_rate() -> None:
    genuine, impostor = torch.randn(300, generator=draws(1)) + 2, torch.randn(2000, generator=draws(2))
    curve = verification_curve(genuine, impostor)
    axes = draw_roc({"one": curve, "other": verification_curve(genuine + 1, impostor)}).axes[0]
    line, mark = axes.lines[0], axes.lines[1]
    for rate, shown in zip(line.get_xdata()[::50], line.get_ydata()[::50], strict=True):
        assert shown / 100 == pytest.approx(curve.tar_at_far(min(float(rate), 1.0))[0])
    rate, _ = curve.equal_error_rate()
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == pytest.approx((rate, 100 * (1 - rate)))
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (1e-4, 1)  # the power of ten below one impostor pair of 2,000
    assert axes.get_legend().get_texts()[0].get_text() == f"one: equal error rate {100 * rate:.3g}%"
    assert axes.get_ylabel().startswith("true accept rate")


def test_score_histograms_hold_every_pair_and_the_threshold_lies_between() -> None:
    genuine, impostor = (torch.rand(400, generator=draws(seed)) * 0.5 + low for seed, low in ((1, 0.3), (2, -0.1)))
    curve = verification_curve(genuine, impostor)
    axes = draw_scores(curve).axes[0]
    for patch, scores in zip(axes.patches, (genuine, impostor), strict=True):
        shares, edges, _ = patch.get_data()
        assert shares.sum() == pytest.approx(100)
        assert np.allclose(shares, 100 * np.histogram(scores, edges)[0] / 400)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(curve.equal_error_rate()[1])
    upper = next(axis for axis in draw_scores(curve).axes if "degrees" in axis.get_xlabel())
    for place, label in zip(upper.get_xticks(), upper.get_xticklabels(), strict=True):
        assert math.cos(math.radians(float(label.get_text()))) == pytest.approx(place)


def test_scores_that_are_no_cosines_have_no_angles_and_constant_ones_are_drawn() -> None:
    assert len(draw_scores(verification_curve(torch.tensor([7.0, 3.0]), torch.tensor([1.0]))).axes) == 1
    figure = draw_scores(verification_curve(torch.full((3,), 0.5), torch.full((9,), 0.5)))
    assert [patch.get_data().values.sum() for patch in figure.axes[0].patches] == pytest.approx([100, 100])
    to_pixels(draw_roc({"constant": verification_curve(torch.full((3,), 0.5), torch.full((9,), 0.5))}))


def test_a_confusion_matrix_says_what_it_counts() -> None:
    counts = torch.tensor([[97, 3, 0], [0, 50, 0], [1, 0, 9]])
    axes = draw_confusion(counts, ["Coat", "Shirt", "Bag"], "val").axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "97", (1, 0): "3", (1, 1): "50", (0, 2): "1", (2, 2): "9"}
    assert np.allclose(axes.images[0].get_array(), [[97, 3, 0], [0, 100, 0], [10, 0, 90]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Coat", "Shirt", "Bag"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    assert axes.get_title() == "val: 156 of 160 correct"


def test_sparse_counts_are_drawn_as_dense_ones() -> None:
    labels, predictions = torch.randint(0, 60, (2, 400), generator=draws())
    for count in (10, 60):
        pairs = labels % count, predictions % count
        dense = torch.bincount(pairs[0] * count + pairs[1], minlength=count**2).view(count, count)
        sparse = count_confusions(*pairs, count)
        assert torch.equal(sparse.to_dense(), dense)
        names = [f"n{index}" for index in range(count)]
        one, other = (draw_confusion(counts, names, "val").axes[0] for counts in (dense, sparse))
        assert texts(one) == texts(other)
        assert one.get_title() == other.get_title() != ""
    drawn = draw_confusion(count_confusions(labels, predictions, 1_000_000), [*map(str, range(1_000_000))], "val")
    assert len(drawn.axes[0].patches) == 25
    worst = worst_confusions(dense)
    right = {(row, column): int(dense[row, column]) for row in range(60) for column in range(60) if row != column}
    assert {(row, column): number for row, column, number, _ in worst} == {key: n for key, n in right.items() if n}
    assert [number for *_, number, _ in worst] == sorted((n for n in right.values() if n), reverse=True)
    assert all(share == number / dense[row].sum() for row, _, number, share in worst)


def test_of_many_classes_the_commonest_confusions_are_bars() -> None:
    counts = 5 * torch.eye(60, dtype=torch.int64)
    names = [f"n{index}" for index in range(60)]
    assert draw_confusion(counts, names, "test").axes[0].get_title().endswith("no class of 60 was taken for another")
    counts[3, 7], counts[50, 2] = 4, 15
    axes = draw_confusion(counts, names, "test").axes[0]
    assert [bar.get_width() for bar in axes.patches] == [15, 4]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["n50, taken for n2", "n3, taken for n7"]
    assert texts(axes) == [" 15 (75% of the class)", " 4 (44.4% of the class)"]


def test_mistakes_are_the_deepest_and_say_their_angles() -> None:
    images = torch.rand(5, 1, 4, 4, generator=draws())
    labels, predictions = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1, 1, 0, 1, 0])
    own, taken = torch.tensor([60.0, 89.0, 80.0, 50.0, 70.0]), torch.tensor([50.0, 89.0, 20.0, 49.0, 30.0])
    mistakes = Mistakes(images, labels, predictions, own, taken)
    hardest = mistakes.hardest(3).wrong_only()
    assert hardest.target_angle.tolist() == [80, 70, 60]
    assert torch.equal(hardest.images, images[[2, 4, 0]])
    assert len(mistakes.hardest(5).wrong_only().labels) == 4
    halves = [Mistakes(*(each[part] for each in mistakes)) for part in (slice(0, 2), slice(2, 5))]
    joined = halves[0].hardest(3).joined(halves[1].hardest(3)).hardest(3)
    assert torch.equal(joined.images, hardest.images)

    figure = draw_mistakes(hardest, ["cat", "dog"], num_wrong=4, num_images=5)
    assert [axes.get_title() for axes in figure.axes[:3]] == ["is dog, taken for cat"] * 2 + ["is cat, taken for dog"]
    assert texts(figure.axes[0]) == ["true 80°, predicted 20°"]
    assert figure.get_suptitle().startswith("The worst 3 of 4 mistakes among 5 images")
    assert not np.allclose(figure.axes[0].images[0].get_array(), figure.axes[1].images[0].get_array())
    # Dark ink on light paper.
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.corrcoef(shown.ravel(), images[2, 0].numpy().ravel())[0, 1] == pytest.approx(-1, abs=1e-5)


def test_no_mistakes_are_said_to_be_none() -> None:
    none = Mistakes(torch.zeros(0, 1, 4, 4), *(torch.zeros(0, dtype=torch.int64) for _ in range(4)))
    figure = draw_mistakes(none, ["cat", "dog"], num_wrong=0, num_images=1234)
    assert [text.get_text() for text in figure.texts] == ["No mistakes among 1,234 images"]


def test_displayed_images_undo_a_normalisation() -> None:
    images = torch.randint(0, 256, (6, 3, 5, 5), generator=draws(), dtype=torch.uint8)
    images[0, :, 0, 0], images[1, :, 0, 0] = 0, 255
    scaled = (images / 255 - 0.3) / torch.tensor([0.2, 0.5, 1.0]).view(3, 1, 1)
    assert torch.allclose(displayable(scaled), images / 255, atol=1e-6)
    assert torch.allclose(displayable(images[:, :1]), 1 - images[:, :1] / 255, atol=1e-6)
    assert torch.equal(displayable(torch.full((2, 3, 4, 4), 7)), torch.zeros(2, 3, 4, 4))


def test_angle_histograms_and_their_history() -> None:
    early, late = (60 + 20 * torch.randn(1000, generator=draws(1)), 20 + 5 * torch.randn(1000, generator=draws(2)))
    own = torch.stack([count_degrees(each) for each in (early, late)])
    other = count_degrees(70 + 3 * torch.randn(1000, generator=draws(3))).expand(2, -1)
    figure = draw_angle_history(AngleHistory(torch.tensor([2, 4]), own, other))
    left, right = figure.axes
    medians = left.lines[0].get_ydata()
    assert medians == pytest.approx([early.median().item(), late.median().item()], abs=1)
    assert left.lines[0].get_xdata().tolist() == [2, 4]
    band = left.collections[0].get_paths()[0].vertices
    ends = [band[band[:, 0] == 2, 1].min(), band[band[:, 0] == 2, 1].max()]
    assert ends == pytest.approx(np.quantile(early.clamp(0, 179), [0.05, 0.95]), abs=1)
    shares = right.patches[0].get_data().values
    assert np.allclose(shares, own[1] / 10)
    assert np.allclose(draw_angles(own[1], other[0]).axes[0].patches[1].get_data().values, other[0] / 10)


def test_center_angles_show_every_pair_and_name_the_closest() -> None:
    centers = torch.randn(4, 3, generator=draws())
    axes = draw_center_angles(centers, list("abcd")).axes[0]
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    expected = torch.rad2deg(center_angles(centers)).numpy()
    np.fill_diagonal(expected, np.nan)
    assert np.allclose(shown, expected, equal_nan=True)
    row, column = np.unravel_index(np.nanargmin(expected), expected.shape)
    assert f"closest: {'abcd'[row]} and {'abcd'[column]}, {np.nanmin(expected):.1f}°" in axes.get_title()
    assert len(axes.texts) == 12


def test_sub_centers_count_by_the_nearest() -> None:
    # The first class's second center lies 10 degrees from the second class's first one.
    places = torch.deg2rad(torch.tensor([0.0, 100.0, 110.0, 200.0]))
    centers = torch.stack((places.cos(), places.sin()), dim=1)
    figure = draw_center_angles(centers, ["a", "b"], sub_centers=2)
    assert "closest: a and b, 10.0°" in figure.axes[0].get_title()


@pytest.mark.parametrize("sub_centers", [1, 3])
def test_of_many_classes_all_pairs_are_counted_and_the_closest_named(
    sub_centers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arcface_pl.figures.closest_centers.BLOCK", 10_000)  # several blocks
    count = 120
    centers = torch.randn(count * sub_centers, 16, generator=draws())
    blocks = torch.rad2deg(center_angles(centers)).view(count, sub_centers, count, sub_centers).amin(dim=(1, 3))
    rows, columns = torch.triu_indices(count, count, offset=1)
    expected = blocks[rows, columns]
    counts, angles, pairs = closest_pairs(centers, sub_centers)
    assert int(counts.sum()) == len(expected)
    near, order = expected.sort()
    torch.testing.assert_close(angles, near[:20].float(), rtol=0, atol=1e-3)
    assert pairs.tolist() == torch.stack((rows, columns), 1)[order[:20]].tolist()
    figure = draw_center_angles(centers, [f"class {index}" for index in range(count)], sub_centers)
    first, second = pairs[0].tolist()
    assert figure.axes[1].get_yticklabels()[0].get_text() == f"class {first} and class {second}"
    assert "120 classes, 7,140 pairs" in figure.axes[0].get_title()


def polar(degrees: list[float]) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack((angle.cos(), angle.sin()), dim=1)


def test_the_circle_shows_each_image_at_its_angle() -> None:
    labels = torch.tensor([0, 1, 1])
    axes = draw_circle(5 * polar([10, 100, 95]), labels, polar([15, 90]), ["a", "b"]).axes[0]
    places = np.degrees([angle for dots in axes.collections for angle, _ in dots.get_offsets().tolist()])
    assert places == pytest.approx([10, 100, 95], abs=1e-3)
    spokes = [np.degrees(line.get_xdata()[0]) for line in axes.lines]
    assert spokes == pytest.approx([15, 90], abs=1e-3)
    assert texts(axes) == ["a", "b"]
    without = draw_circle(polar([10, 100, 90]), labels, None, ["a", "b", "nobody"]).axes[0]
    assert not without.lines
    assert texts(without) == ["a", "b"]
    assert np.degrees(without.texts[1].get_position()[0]) == pytest.approx(95, abs=1e-3)


def test_the_sphere_shows_what_faces_the_viewer_on_either_side() -> None:
    embeddings = torch.tensor([[0.3, 0.0, 2.0], [0.3, 0.0, -2.0], [0.0, 3.0, 1.0]])
    centers = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.0, -0.8]])
    front, back = draw_sphere(embeddings, torch.tensor([0, 1, 0]), centers, ["a", "b"]).axes
    shown = [[tuple(dot) for dots in axes.collections for dot in dots.get_offsets().tolist()] for axes in (front, back)]
    across = 0.3 / math.hypot(0.3, 2)
    assert shown[0] == [pytest.approx((across, 0)), pytest.approx((0, 3 / math.sqrt(10)))]
    assert shown[1] == [pytest.approx((-across, 0))]  # seen from behind
    assert [texts(axes) for axes in (front, back)] == [["a"], ["b"]]


def overlapping(axes: object) -> list[tuple[str, str]]:
    """Return the texts of axes that overlap when they are drawn."""
    shown = axes.texts  # type: ignore[attr-defined]
    renderer = axes.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    return [
        (first, second)
        for place, (first, box) in enumerate(boxes)
        for second, other in boxes[:place]
        if box.overlaps(other)
    ]


@pytest.mark.parametrize("num_classes", [12, 50])
def test_names_of_classes_do_not_overlap(num_classes: int) -> None:
    names = [f"in_the_{index}th_box" for index in range(num_classes)]
    labels = torch.arange(num_classes)
    points = torch.randn(num_classes, 3, generator=draws())
    drawn = [
        draw_circle(points[:, :2], labels, points[:, :2], names),
        draw_sphere(points, labels, points, names),
        draw_projection(points[:, :2].numpy(), names, "t-SNE", num_classes),
    ]
    for figure in drawn:
        to_pixels(figure)
        for axes in figure.axes:
            assert len(texts(axes)) >= 3
            assert overlapping(axes) == []
    assert {len(text) for text in texts(drawn[0].axes[0])} <= {*range(3, 11)}


def test_directions_of_many_classes_are_counted() -> None:
    count = 51
    vectors = torch.randn(40 * count, 3, generator=draws())
    labels, names = torch.arange(len(vectors)) % count, [str(index) for index in range(count)]
    flat = draw_circle(vectors[:, :2], labels, polar([5.0] * count), names).axes[0]
    images, centers = (patch.get_data().values for patch in flat.patches)
    expected = np.histogram(torch.rad2deg(torch.atan2(vectors[:, 1], vectors[:, 0])).numpy(), 36, (-180, 180))[0]
    assert np.allclose(images, 100 * expected / len(vectors))
    assert centers[18] == 100
    front, back, _ = draw_sphere(vectors, labels, None, names).axes
    shown = [np.asarray(axes.images[0].get_array()) for axes in (front, back)]
    assert [each.sum() for each in shown] == [(vectors[:, 2] >= 0).sum(), (vectors[:, 2] < 0).sum()]
    # Uniform directions fill cells of equal area alike: no cell within the rim is five deviations off
    side = shown[0].shape[0]
    place = (np.arange(side) + 0.5) / side * 2 - 1
    inside = np.hypot(*np.meshgrid(place, place)) < 1 - 2 / side
    mean = len(vectors) * (2 / side) ** 2 / (2 * np.pi)
    for each in shown:
        assert np.abs(each[inside] - mean).max() < 5 * np.sqrt(mean)
    pole = draw_sphere(torch.tensor([[0.0, 0.1, -9.0]]), labels[:1], None, names).axes[1]
    row, column = np.argwhere(np.asarray(pole.images[0].get_array()))[0]
    assert (row, column) == (3, 3)  # of six: just above the middle


def test_curves_are_in_the_order_in_which_a_run_measures_them() -> None:
    rows = [{"step": 1, "test/loss": 1.0, "val/loss": 2.0}, {"step": 2, "train/loss": 3.0, "other_loss": 4.0}]
    figure = draw_curves(rows)
    assert figure is not None
    assert [line.get_label() for line in figure.axes[0].lines] == ["train/loss", "val/loss", "other_loss", "test/loss"]


def test_curves_of_any_size_fit_their_picture() -> None:
    for loss, accuracy in ((123_456.0, 1e-5), (0.00003, 1.0), (12.5, 0.98)):
        rows = [{"step": 1, "train/loss": loss, "val/accuracy": 0.0}]
        figure = draw_curves([*rows, {"step": 1_000_000, "train/loss": -loss, "val/accuracy": accuracy}])
        assert figure is not None
        (left, low), (right, high) = np.asarray(figure.get_tightbbox().get_points())
        assert min(left, low) >= 0
        assert right <= figure.get_figwidth()
        assert high <= figure.get_figheight()
        one, other = (axes.get_tightbbox().get_points() for axes in figure.axes)
        assert one[1, 0] < other[0, 0]  # side by side


def test_styles_differ_for_every_eye_and_in_print() -> None:
    for key in ("color", "marker", "linestyle"):
        assert len({str(style[key]) for style in SERIES}) == len(SERIES)
    assert len(set(CLASS_COLORS)) == 10


def test_labels_fit() -> None:
    assert thin(10, 25) == list(range(10))
    assert thin(0, 25) == []
    for count in (26, 1000, 1_000_000):
        assert len(thin(count, 25)) <= 25
    assert shorten("Ankle boot") == "Ankle boot"
    assert shorten("transcontinental railway 17") == "transco…ilway 17"
    assert len(shorten("x" * 300)) == 16
    products = [f"product {number:05d} blue cotton shirt" for number in range(300)]
    assert shorten(products[17], among=products) == "\N{HORIZONTAL ELLIPSIS}00017\N{HORIZONTAL ELLIPSIS}"
    people = ["/data/faces/Abraham_Lincoln_000", "/data/faces/Ada_Lovelace_001"]
    assert [shorten(each, 20, people) for each in people] == [
        f"\N{HORIZONTAL ELLIPSIS}{each.removeprefix('/data/faces/')}" for each in people
    ]
    assert shorten("transcontinental railway 17", among=["transcontinental railway 17"] * 2) == "transco…ilway 17"
    assert shorten("short", among=["short", "shore"]) == "short"


def test_pixels_and_files_are_of_the_size_asked_for(tmp_path: Path) -> None:
    figure = draw_center_angles(torch.eye(3), list("abc"))
    # 4.4 by 4.6 inches, and a resolution at which both are whole pixels in float64: matplotlib 3.10 cuts, 3.11 rounds
    assert to_pixels(figure, dpi=60).shape == (264, 276, 3)
    save(figure, tmp_path / "new" / "centers.png", dpi=60)
    with Image.open(tmp_path / "new" / "centers.png") as picture:
        assert picture.size == to_pixels(figure, dpi=60).shape[1::-1]
