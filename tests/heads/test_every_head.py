"""What holds for every head alike: the three calls, the arguments, the errors, the state."""

import contextlib
import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from arcface_pl.checkpoints.specs import spec_of
from arcface_pl.heads import HEADS, AngularHead, Head, MarginHead, shard_head

every_head = pytest.mark.parametrize("name", HEADS)
MARGIN = [name for name, head in HEADS.items() if issubclass(head, MarginHead)]
margin_heads = pytest.mark.parametrize("name", MARGIN)
angular_heads = pytest.mark.parametrize("name", [name for name, head in HEADS.items() if issubclass(head, AngularHead)])


def test_a_head_without_a_loss_cannot_be_trained() -> None:
    class Bare(Head):
        """Lacks everything of its own."""

    with pytest.raises(NotImplementedError):
        Bare(16, 10).loss(*batch())


def build(name: str, num_classes: int = 10, **kwargs: Any) -> Head:
    torch.manual_seed(0)
    return HEADS[name](16, num_classes, **kwargs)


def batch(size: int = 12, classes: int = 10) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 8 * torch.randn(size, 16, generator=generator), torch.arange(size) % classes


@every_head
def test_prediction_never_sees_the_label(name: str) -> None:
    head = build(name)
    embeddings, _ = batch()
    logits = head(embeddings)
    assert logits.shape == (12, 10)
    if isinstance(head, AngularHead):
        torch.testing.assert_close(logits, head.scale_value * head.cosine(embeddings))
    assert head.cosine(embeddings).abs().max() <= 1


@margin_heads
def test_margin_lowers_the_target_logit_and_no_other(name: str) -> None:
    head = build(name).eval()
    embeddings, labels = batch()
    plain, with_margin = head(embeddings), head(embeddings, labels)
    target = torch.nn.functional.one_hot(labels, 10).bool()
    assert (with_margin[target] < plain[target]).all()
    if name != "CurricularFaceHead":  # it re-weights the others
        assert torch.equal(with_margin[~target], plain[~target])


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_every_floating_dtype_is_accepted(name: str, dtype: torch.dtype) -> None:
    head = build(name)
    embeddings, labels = batch()
    embeddings = embeddings.to(dtype).requires_grad_()
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert head(embeddings).dtype == head(embeddings, labels).dtype == wanted
    loss = head.loss(embeddings, labels)
    assert loss.dtype == wanted
    loss.backward()
    assert embeddings.grad.dtype == dtype
    assert torch.isfinite(embeddings.grad).all()
    assert head.weight.dtype == torch.float32
    assert torch.isfinite(head.weight.grad).all()


@every_head
def test_autocast_leaves_the_weight_and_the_loss_alone(name: str) -> None:
    head = build(name).eval()
    embeddings, labels = batch()
    expected = head.loss(embeddings, labels), head(embeddings), head(embeddings, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = head.loss(embeddings, labels), head(embeddings), head(embeddings, labels)
    assert all(torch.equal(mine, other) for mine, other in zip(got, expected, strict=True))
    assert head.weight.dtype == torch.float32


@every_head
def test_wrong_batches_are_refused_by_both_calls(name: str) -> None:
    head = build(name)
    embeddings, labels = batch()
    for call in (head.loss, head):
        with pytest.raises(ValueError, match=r"^labels: got 10; expected 12 integers in \[0, 9\]"):
            call(embeddings, labels + 1)
        with pytest.raises(ValueError, match="^labels: got -100"):
            call(embeddings, torch.full((12,), -100))
        with pytest.raises(ValueError, match="^labels.dtype: got torch.float32"):
            call(embeddings, labels.float())
        with pytest.raises(ValueError, match=r"^labels.shape: got \(11,\)"):
            call(embeddings, labels[:11])
        with pytest.raises(ValueError, match=r"^embeddings.shape: got \(12, 15\); expected \(batch, 16\)"):
            call(embeddings[:, :15], labels)
        with pytest.raises(ValueError, match="^embeddings.dtype: got torch.int64; expected floating point"):
            call(embeddings.long(), labels)
        with pytest.raises(ValueError, match="expected at least one sample"):
            call(embeddings[:0], labels[:0])
    assert head(embeddings[:0]).shape == (0, 10)
    with pytest.raises(ValueError, match=r"^embeddings.shape: got \(16,\)"):
        head(embeddings[0])


@every_head
def test_labels_are_not_read_where_they_were_checked_before(name: str) -> None:
    head = build(name)
    head.check_labels = False
    embeddings, labels = batch()
    with pytest.raises((IndexError, RuntimeError)):  # torch's own, on a CPU
        head.loss(embeddings, labels + 1)
    for call in (head.loss, head):
        with pytest.raises(ValueError, match="^labels.dtype: got torch.float32"):
            call(embeddings, labels.float())


@every_head
@pytest.mark.parametrize("size", [1, 2])
def test_the_smallest_batches_and_class_counts_are_finite(name: str, size: int) -> None:
    for num_classes in (1, 2):
        head = build(name, num_classes)
        embeddings = torch.randn(size, 16, requires_grad=True)
        labels = torch.zeros(size, dtype=torch.int64)
        for loss in (head.loss(embeddings, labels), head(embeddings, labels).sum()):
            head.zero_grad()
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(embeddings.grad).all()
            assert torch.isfinite(head.weight.grad).all()
        assert all(torch.isfinite(buffer).all() for buffer in head.buffers())


@angular_heads
def test_a_zero_embedding_receives_no_gradient(name: str) -> None:
    head = build(name)
    embeddings = torch.zeros(3, 16, requires_grad=True)
    labels = torch.arange(3)
    for loss in (head.loss(embeddings, labels), head(embeddings).sum(), head(embeddings, labels).sum()):
        embeddings.grad = None
        loss.backward()
        assert torch.equal(embeddings.grad, torch.zeros_like(embeddings))


@every_head
def test_reductions(name: str) -> None:
    head = build(name).eval()
    embeddings, labels = batch()
    each = head.loss(embeddings, labels, reduction="none")
    assert each.shape == (12,)
    torch.testing.assert_close(head.loss(embeddings, labels), each.mean())
    torch.testing.assert_close(head.loss(embeddings, labels, reduction="sum"), each.sum())
    with pytest.raises(ValueError, match="^reduction: got 'avg'; expected one of"):
        head.loss(embeddings, labels, reduction="avg")


@every_head
def test_a_head_can_be_rebuilt_from_its_attributes(name: str) -> None:
    head = build(name)
    given = {key: getattr(head, key) for key in inspect.signature(HEADS[name]).parameters}
    assert all(type(value) in (int, float, str, bool) for value in given.values())
    again = HEADS[name](**given)
    again.load_state_dict(head.state_dict())
    embeddings, labels = batch()
    assert torch.equal(again.eval().loss(embeddings, labels), head.eval().loss(embeddings, labels))


def moved(name: str) -> Head:
    """A head that is not as it was made: warm-up half-way, running averages moved, class margins set."""
    head = build(name, **({"margin_warmup_epochs": 2, "class_margins": "frequency"} if name in MARGIN else {}))
    head.set_progress(epoch=0.5, step=3, seed=1, batch=2)
    head.set_class_counts(torch.arange(10) + 1)
    head.loss(*batch())
    return head


def through_pickle(head: Head) -> Head:
    return pickle.loads(pickle.dumps(head))


def through_a_file(head: Head) -> Head:
    buffer = io.BytesIO()
    torch.save(head, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle, through_a_file])
@pytest.mark.parametrize("sharded", [False, True])
@every_head
def test_a_head_can_be_copied_pickled_and_saved(name: str, sharded: bool, way: Callable[[Head], Head]) -> None:
    if sharded and name == "LinearHead":
        pytest.skip("has no angles to shard")
    head = moved(name)
    if sharded:
        head = shard_head(head, sample_rate=0.5)
    other = way(head)
    assert type(other) is type(head)
    assert repr(other) == repr(head)
    embeddings, labels = batch()
    for mine, its in zip(head.state_dict().items(), other.state_dict().items(), strict=True):
        assert mine[0] == its[0]
        assert torch.equal(mine[1], its[1])
    assert torch.equal(other.loss(embeddings, labels), copy.deepcopy(head).loss(embeddings, labels))
    other.weight.data.zero_()
    assert head.weight.abs().sum() > 0


@every_head
def test_every_argument_is_in_the_signature_the_help_and_the_spec(name: str) -> None:
    parameters = inspect.signature(HEADS[name]).parameters
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert {"embedding_dim", "num_classes", "label_smoothing"} <= parameters.keys()
    spec = spec_of(moved(name))
    assert spec["kwargs"].keys() == parameters.keys()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Head, "head")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), pytest.raises(SystemExit):
        parser.parse_args([f"--head.help={HEADS[name].__module__}.{name}"])
    for parameter in parameters.values():
        described = output.getvalue().split(f"\n  --head.init_args.{parameter.name} ")
        if len(described) == 1:
            described = output.getvalue().split(f"\n  --head.{parameter.name} ")
        text = " ".join(described[1].split("\n  --head.")[0].split())
        if parameter.default is not parameter.empty:
            assert f"default: {parameter.default}" in text
        assert len(text.split()) > 4
    path = f"{HEADS[name].__module__}.{name}"
    needed = [f"--head={path}", "--head.embedding_dim=4", "--head.num_classes=5"]
    made = parser.parse_args(needed).head.init_args
    assert set(vars(made)) == set(parameters)
    for wrong in ("--head.nonsense=1", "--head.label_smoothing=much"):
        with pytest.raises(ArgumentError, match="nonsense|label_smoothing"):
            parser.parse_args([*needed, wrong])
    with pytest.raises(TypeError, match="nonsense"):
        HEADS[name](4, 5, nonsense=1)


def test_a_strangers_constructor_has_its_own_and_its_parents_arguments() -> None:
    class Strangers(HEADS["CosFaceHead"]):
        def __init__(self, embedding_dim: int, num_classes: int, *, depth: int = 2, **kwargs: Any) -> None:
            super().__init__(embedding_dim, num_classes, **kwargs)
            self.depth = depth

    class Closed(Strangers):
        def __init__(self, num_classes: int) -> None:
            super().__init__(8, num_classes)

    theirs = list(inspect.signature(Strangers).parameters)
    assert theirs[:3] == ["embedding_dim", "num_classes", "depth"]
    assert set(theirs) == {*inspect.signature(HEADS["CosFaceHead"]).parameters, "depth"}
    assert list(inspect.signature(Closed).parameters) == ["num_classes"]
    assert spec_of(Strangers(4, 5, depth=3, margin=0.1, scale=8.0))["kwargs"]["depth"] == 3


@every_head
def test_arguments_are_parsed_from_strings(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(HEADS[name], "head")
    arguments = ["--head.embedding_dim=4", "--head.num_classes=5"]
    if issubclass(HEADS[name], AngularHead):
        for scale in ("adacos", "16", "2.5"):
            built = parser.instantiate_classes(parser.parse_args([*arguments, f"--head.scale={scale}"])).head
            assert built.scale == (scale if scale == "adacos" else float(scale))
    assert type(parser.instantiate_classes(parser.parse_args(arguments)).head) is HEADS[name]
    help_text = parser.format_help()
    assert "num_classes" in help_text
    for parameter in inspect.signature(HEADS[name]).parameters:
        described = help_text.split(f"\n  --head.{parameter} ")[1].split("\n  --head.")[0]
        assert len(described.split()) > 4, f"{parameter} is not described"


@every_head
def test_logits_have_exact_second_derivatives_and_losses_none(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name](3, 4).double().eval()
    if name == "AdaFaceHead":  # no gradient flows through its quality: hold that at its bound
        head.norm_mean.zero_()
        head.norm_std.zero_()
    embeddings = 20 * torch.randn(4, 3, dtype=torch.float64)
    labels = torch.arange(4)
    for call in (head, lambda x: head(x, labels)):
        assert torch.autograd.gradcheck(call, (embeddings.requires_grad_(),))
        assert torch.autograd.gradgradcheck(call, (embeddings,))
    if name == "LinearHead":  # a small one is torch's own operations
        assert torch.autograd.gradgradcheck(lambda x: head.loss(x, labels), (embeddings,))
        return
    with pytest.raises(ValueError, match="^create_graph: got True; expected False"):
        torch.autograd.grad(head.loss(embeddings, labels), embeddings, create_graph=True)
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: head(x).sum())(embeddings.detach())


WRONG = [
    ("embedding_dim", 0),
    ("embedding_dim", 2.0),
    ("num_classes", 0),
    ("num_classes", -3),
    ("num_classes", True),
    ("num_classes", "10"),
    ("sub_centers", 0),
    ("sub_centers", 1.5),
    ("scale", 0),
    ("scale", -1.0),
    ("scale", float("nan")),
    ("scale", float("inf")),
    ("scale", True),
    ("scale", "auto"),
    ("scale", None),
    ("margin", -0.1),
    ("margin", float("nan")),
    ("margin", float("inf")),
    ("margin", True),
    ("margin", "0.5"),
    ("min_margin", 3.2),
    ("max_margin", 0.3),
    ("max_margin", 4.0),
    ("min_norm", 0.0),
    ("max_norm", 10.0),
    ("norm_weight", -1.0),
    ("m1", 0.0),
    ("m2", 3.15),
    ("m3", 2.0),
    ("h", 0.0),
    ("momentum", 0.0),
    ("momentum", 1.5),
    ("sigma", -0.1),
    ("variant", "both"),
    ("extension", "easy"),
    ("label_smoothing", 1.0),
    ("label_smoothing", -0.1),
    ("margin_warmup_epochs", -1),
    ("class_margins", "ldam"),
    ("use_bias", 1),
]


@every_head
def test_impossible_arguments_are_refused_by_name(name: str) -> None:
    accepted = inspect.signature(HEADS[name]).parameters
    for argument, value in WRONG:
        if argument not in accepted:
            continue
        with pytest.raises(ValueError, match=rf"^{argument}: got {value!r}; expected "):
            HEADS[name](**({"embedding_dim": 4, "num_classes": 5} | {argument: value}))


@pytest.mark.parametrize("name", ["ArcFaceHead", "AdaFaceHead", "CurricularFaceHead", "ElasticFaceHead"])
def test_an_angle_of_pi_is_no_margin(name: str) -> None:
    with pytest.raises(ValueError, match=r"^margin: got 3.1416; expected a number in \[0, 3.14159\)"):
        HEADS[name](4, 5, margin=3.1416)


def test_sub_centers_of_a_class_are_adjacent() -> None:
    head = HEADS["ArcFaceHead"](2, 2, sub_centers=2)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(
        head.cosine(torch.tensor([[3.0, 4.0], [-4.0, -3.0]])), torch.tensor([[0.8, -0.6], [-0.6, 0.8]])
    )


def test_initial_centers_are_xavier_uniform() -> None:
    head = build("ArcFaceHead", 1000)
    bound = (6 / (16 + 1000)) ** 0.5
    assert head.weight.abs().max() <= bound
    assert head.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


@every_head
def test_training_on_the_loss_lowers_it(name: str) -> None:
    head = build(name)
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(10, 16, generator=generator)
    labels = torch.arange(200) % 10
    inputs = centers[labels] + 0.3 * torch.randn(200, 16, generator=generator)
    layer = torch.nn.Linear(16, 16)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=0.01)
    for step in range(150):
        head.set_progress(epoch=step / 20, step=step, seed=0)
        optimizer.zero_grad()
        head.loss(layer(inputs), labels).backward()
        optimizer.step()
    assert (head(layer(inputs)).argmax(dim=1) == labels).float().mean() > 0.98
