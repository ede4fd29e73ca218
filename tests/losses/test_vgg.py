"""The perceptual loss, with random weights: wiring, gradients, frozenness, and what happens without weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torchvision import models

from atelier.errors import UserError
from atelier.losses.perceptual import CONVOLUTIONS, PerceptualLossOptions, layer_names
from atelier.losses.vgg import MEAN, STD, PerceptualLoss, VggFeatures, gram_matrix

ALL_TYPES = [name + tail for name in CONVOLUTIONS for tail in ("", "_bn")]
DOCUMENT = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
SHALLOW = {"conv1_2": 0.5, "conv2_2": 1.0}


def options(**keys) -> PerceptualLossOptions:
    return PerceptualLossOptions(**{"layer_weights": SHALLOW, "vgg_weights": "random", **keys})


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    first, second = (torch.rand(2, 3, 32, 32, generator=generator) for _ in range(2))
    return first, second


def digest(module: nn.Module) -> str:
    parts = [tensor.contiguous().numpy().tobytes() for tensor in module.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("vgg_type", ALL_TYPES)
def test_layer_names_are_torchvision_s_order(vgg_type):
    with torch.device("meta"):
        features = models.get_model(vgg_type, weights=None).features
    kinds = {nn.Conv2d: "conv", nn.BatchNorm2d: "bn", nn.ReLU: "relu", nn.MaxPool2d: "pool"}
    names = layer_names(vgg_type)
    assert [name.rstrip("0123456789_") for name in names] == [kinds[type(layer)] for layer in features]
    assert len(set(names)) == len(names)


def test_indices_of_the_layers_the_field_uses():
    names = layer_names("vgg19")
    assert [names.index(name) for name in DOCUMENT] == [2, 7, 16, 25, 34]


def test_features_equal_torchvision_s_layers_before_the_relu(pair):
    ours = VggFeatures(list(DOCUMENT), weights="random")
    with torch.device("meta"):
        reference = models.vgg19(weights=None).features[:35]
    reference.load_state_dict(ours.features.state_dict(), assign=True)
    current = (pair[0] - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    expected = {}
    for index, layer in enumerate(reference.eval()):
        current = layer(current)
        expected[index] = current.clone()  # before the next, in-place, ReLU changes it
    found = ours(pair[0])
    assert list(found) == list(DOCUMENT)
    for name, index in zip(DOCUMENT, [2, 7, 16, 25, 34], strict=True):
        torch.testing.assert_close(found[name], expected[index])
        assert found[name].min() < 0  # a ReLU has not passed over it


def test_relu_layers_may_be_asked_for_too(pair):
    found = VggFeatures(["conv1_1", "relu1_1"], weights="random")(pair[0])
    assert found["conv1_1"].min() < 0
    assert torch.equal(found["relu1_1"], found["conv1_1"].relu())


def test_nothing_deeper_than_the_deepest_layer_is_built():
    assert len(VggFeatures(["conv2_2", "conv1_2"], weights="random").features) == 8


@pytest.mark.parametrize("criterion", ["l1", "l2", "fro"])
def test_terms_equal_the_formulas(pair, criterion):
    loss = options(criterion=criterion, perceptual_weight=0.3, style_weight=4.0, loss_weight=2.0).build()
    terms = loss(*pair)
    distance = {
        "l1": lambda d: d.abs().mean(),
        "l2": lambda d: (d**2).mean(),
        "fro": lambda d: torch.linalg.vector_norm(d),
    }[criterion]
    vgg = VggFeatures(list(SHALLOW), weights="random")
    a, b = vgg(pair[0]), vgg(pair[1])
    grams = [{k: torch.einsum("nchw,ndhw->ncd", f, f) / f[0].numel() for k, f in x.items()} for x in (a, b)]
    content = 0.5 * distance(a["conv1_2"] - b["conv1_2"]) + distance(a["conv2_2"] - b["conv2_2"])
    style = sum(w * distance(grams[0][k] - grams[1][k]) for k, w in SHALLOW.items())
    assert list(terms) == ["percep", "style"]
    torch.testing.assert_close(terms["percep"], 2.0 * 0.3 * content)
    torch.testing.assert_close(terms["style"], 2.0 * 4.0 * style)


def test_gram_matrix_by_hand():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])  # two channels of 1×2
    expected = torch.tensor([[[5.0, 1.0], [1.0, 10.0]]]) / 4
    assert torch.equal(gram_matrix(features), expected)


@pytest.mark.parametrize(
    ("keys", "names"),
    [({"style_weight": 0}, ["percep"]), ({"perceptual_weight": 0, "style_weight": 1}, ["style"])],
)
def test_a_weight_of_zero_switches_its_term_off(pair, keys, names):
    assert list(options(**keys).build()(*pair)) == names


def test_both_weights_zero_is_an_error():
    with pytest.raises(ValidationError, match="both 0"):
        options(perceptual_weight=0)


def test_an_unknown_layer_names_the_nearest():
    with pytest.raises(ValidationError, match=r"vgg16 has no layer 'conv3_4'; did you mean 'conv3_\d'"):
        options(vgg_type="vgg16", layer_weights={"conv3_4": 1})


@pytest.mark.parametrize("flag", ["use_input_norm", "range_norm"])
def test_the_normalising_options_change_the_value(pair, flag):
    default = getattr(options(), flag)
    values = [options(**{flag: value}).build()(*pair)["percep"] for value in (default, not default)]
    assert not torch.equal(*values)


def test_range_norm_maps_minus_one_to_one(pair):
    plain = options().build()(*pair)["percep"]
    moved = options(range_norm=True).build()(*(2 * picture - 1 for picture in pair))["percep"]
    torch.testing.assert_close(moved, plain)


def test_grey_is_repeated_to_three_channels(pair):
    loss = options().build()
    grey = [picture[:, :1] for picture in pair]
    assert torch.equal(
        loss(*grey)["percep"], loss(*(picture.repeat(1, 3, 1, 1) for picture in grey))["percep"]
    )
    with pytest.raises(UserError, match="1 or 3 channels, given 2×2×32×32"):
        loss(*(picture[:, :2] for picture in pair))


@pytest.mark.parametrize("vgg_type", ["vgg19", "vgg11_bn"])
def test_vgg_stays_bit_identical_frozen_and_in_eval_mode(pair, vgg_type):
    loss = options(vgg_type=vgg_type, layer_weights={"conv1_1": 1.0, "conv2_1": 1.0}).build()
    before = digest(loss)
    net = nn.Conv2d(3, 3, 3, padding=1)
    optimizer = torch.optim.SGD([*net.parameters(), *loss.parameters()], lr=0.1, weight_decay=0.1)
    for _ in range(10):
        loss.train()
        optimizer.zero_grad()
        loss(net(pair[0]), pair[1])["percep"].backward()
        optimizer.step()
    assert not any(part.training for part in loss.vgg.modules())
    assert all(param.grad is None and not param.requires_grad for param in loss.parameters())
    assert digest(loss) == before


def test_the_gradient_reaches_the_prediction_and_only_it(pair):
    prediction, target = (picture.clone().requires_grad_() for picture in pair)
    sum(options(style_weight=1).build()(prediction, target).values()).backward()
    assert prediction.grad is not None and prediction.grad.abs().max() > 0
    assert target.grad is None


def test_derivatives_are_right_in_float64():
    loss = options(layer_weights={"relu1_1": 1.0}, criterion="l2", style_weight=3.0).build().double()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(1, 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    assert torch.autograd.gradcheck(lambda x: sum(loss(x, b).values()), a.requires_grad_())


def test_building_with_random_weights_draws_nothing_from_the_global_stream():
    before = torch.get_rng_state()
    options().build()
    assert torch.equal(torch.get_rng_state(), before)


def full_state(depth: int) -> dict[str, torch.Tensor]:
    """The first layers of vgg19 under torchvision's names, as the published file has them."""
    features = VggFeatures([layer_names("vgg19")[depth - 1]], weights="random").features
    return {f"features.{name}": tensor + 0.01 for name, tensor in features.state_dict().items()}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, an empty torch cache, no network."""

    def refuse(url: str, *_args: object, **_keys: object) -> None:
        raise URLError(f"no route to {url}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return tmp_path


def test_without_weights_and_network_the_message_names_all_remedies(offline):
    with pytest.raises(UserError) as error:
        options(vgg_weights=None).build()
    text = str(error.value)
    for part in (
        "vgg19-dcbb9e9d.pth",
        "experiments/pretrained_models",
        "vgg_weights: PATH",
        "network",
        "no route",
        "train.perceptual_opt=~",
    ):
        assert part in text


@pytest.mark.parametrize("place", ["experiments/pretrained_models", "hub/checkpoints"])
def test_weights_are_found_in_both_places(offline, place, pair):
    path = offline / place / "vgg19-dcbb9e9d.pth"
    path.parent.mkdir(parents=True)
    torch.save(full_state(8), path)
    found = options(vgg_weights=None).build()
    expected = options(vgg_weights=str(path)).build()
    assert isinstance(found, PerceptualLoss)
    assert digest(found) == digest(expected) != digest(options().build())
    assert torch.equal(found(*pair)["percep"], expected(*pair)["percep"])


def test_basicsr_s_place_comes_before_the_cache(offline):
    for place, depth in (("experiments/pretrained_models", 8), ("hub/checkpoints", 8)):
        path = offline / place / "vgg19-dcbb9e9d.pth"
        path.parent.mkdir(parents=True)
        torch.save({k: v + (place.startswith("hub")) for k, v in full_state(depth).items()}, path)
    expected = options(vgg_weights="experiments/pretrained_models/vgg19-dcbb9e9d.pth").build()
    assert digest(options(vgg_weights=None).build()) == digest(expected)


def test_the_download_goes_to_the_cache_with_its_hash_checked(offline, monkeypatch):
    seen: list[tuple[str, str, str]] = []

    def download(url: str, target: str, hash_prefix: str) -> None:
        seen.append((url, target, hash_prefix))
        torch.save(full_state(8), target)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    options(vgg_weights=None).build()
    ((url, target, prefix),) = seen
    assert url.endswith("/vgg19-dcbb9e9d.pth")
    assert Path(target) == offline / "hub" / "checkpoints" / "vgg19-dcbb9e9d.pth"
    assert prefix == "dcbb9e9d"


def test_bad_weight_files_are_named(tmp_path):
    missing, torn, other = tmp_path / "none.pth", tmp_path / "torn.pth", tmp_path / "other.pth"
    whole = tmp_path / "whole.pth"
    torch.save(full_state(8), whole)
    torn.write_bytes(whole.read_bytes()[:5000])
    torch.save({"features.0.weight": torch.zeros(64, 1, 3, 3)}, other)
    for path, reason in (
        (missing, "there is no file"),
        (torn, "cannot be read"),
        (other, "does not hold vgg19"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            options(vgg_weights=str(path)).build()
        assert str(path) in str(error.value)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"features.0.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="cannot be read"):
        options(vgg_weights=str(tmp_path / "trap.pth")).build()
    assert not (tmp_path / "ran").exists()
