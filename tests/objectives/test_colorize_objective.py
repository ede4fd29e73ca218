"""The colorize objective's step: terms, rates, the discriminator's place, scheduled sampling, precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from atelier.colorize import FusionSystem, FusionSystemOptions
from atelier.data.clip_batch import ClipBatch
from atelier.data.clip_options import TrainClipsOptions
from atelier.degrade.bicubic import BicubicOptions
from atelier.errors import RunStopped, UserError
from atelier.objectives.base import Setting
from atelier.objectives.colorize import ColorizeObjective
from atelier.objectives.colorize_options import ColorizeOptions
from atelier.options.schema import RunOptions
from atelier.train.distributed import Ranks
from atelier.train.trainer import Trainer

CPU = torch.device("cpu")


def clips(count: int = 2, frames: int = 3, size: int = 32, seed: int = 0, step: int = 1) -> ClipBatch:
    options = TrainClipsOptions(
        layout="synthetic",
        clip_length=frames,
        short_side=size,
        batch_size_per_gpu=count,
        num_worker_per_gpu=0,
    )
    data: Any = options.open(
        scale=1,
        degradation=BicubicOptions(),
        seed=seed,
        global_batch=count,
        in_channels=1,
    )
    batch: ClipBatch = next(iter(data.batches(step, step)))
    return batch


def system(**changes: Any) -> FusionSystem:
    torch.manual_seed(0)
    net = FusionSystemOptions.model_validate({"fusion": {"type": "unet", "width": 4}, **changes}).build()
    # An untrained output layer is zero: nothing behind it would get a gradient.
    with torch.no_grad():
        for parameter in net.fusion.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return net


def objective(
    net: nn.Module, judge: nn.Module | None = None, seed: int = 0, **options: Any
) -> ColorizeObjective:
    nets = {"g": net} | ({"d": judge} if judge is not None else {})
    built = ColorizeOptions.model_validate(options).build(nets=nets, losses=[], device=CPU)
    assert isinstance(built, ColorizeObjective)
    built.begin(Setting(seed, 1, 1, (1, 2), 0, CPU))
    return built


class Judge(nn.Module):
    """A discriminator of one convolution that remembers what it saw, and with whose gradients allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)
        self.seen: list[tuple[Tensor, bool, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append((x.detach(), x.requires_grad, self.conv.weight.requires_grad))
        logits: Tensor = self.conv(x).mean(dim=(2, 3))
        return logits


def test_the_discriminators_place_in_the_step() -> None:
    """Acceptance row 20: D takes no gradient in G's part, sees unit LAB, and a detached picture in its own part."""
    torch.manual_seed(1)
    net, judge, batch = system(), Judge(), clips()
    parts = objective(net, judge, loss={"l1": 1, "gan": {"weight": 0.5}}).parts(batch, 1)
    first = next(parts)
    assert first.role == "g" and "l_g_gan" in first.terms
    first.total.backward()  # type: ignore[no-untyped-call]
    assert judge.conv.weight.grad is None and judge.conv.bias is not None and judge.conv.bias.grad is None
    assert net.fusion.out.weight.grad is not None  # type: ignore[union-attr]
    before = [None if each.grad is None else each.grad.clone() for each in net.parameters()]
    second = next(parts)
    assert second.role == "d"
    second.total.backward()  # type: ignore[no-untyped-call]
    assert judge.conv.weight.grad is not None and judge.conv.weight.grad.abs().sum() > 0
    for grad, parameter in zip(before, net.parameters(), strict=True):
        assert (grad is None) == (parameter.grad is None)
        assert grad is None or parameter.grad is None or torch.equal(grad, parameter.grad)
    assert next(parts, None) is None
    # Frames one by one, real and fake of one lightness, all in the unit scale.
    for picture, _, _ in judge.seen:
        assert picture.shape[1:] == (3, 32, 32) and picture.abs().max() <= 1
    real, fake, both = (each[0] for each in judge.seen)
    assert torch.equal(real, batch.lab.flatten(0, 1)) and torch.equal(fake[:, :1], real[:, :1])
    assert torch.equal(both, torch.cat([real, fake]))
    assert [flags for _, *flags in judge.seen] == [[False, True], [True, False], [False, True]]


def test_the_generator_meets_its_judge_after_start_iter() -> None:
    net, judge, batch = system(), Judge(), clips()
    built = objective(net, judge, loss={"l1": 1, "gan": {"weight": 0.5, "start_iter": 5}})
    assert built.roles == built.active_roles(1) == ("g", "d")
    for step, joined in ((5, False), (6, True)):
        parts = list(built.parts(batch, step))
        assert [part.role for part in parts] == ["g", "d"]
        assert ("l_g_gan" in parts[0].terms) == joined


@pytest.mark.parametrize("term", ["l1", "exemplar", "temporal", "adaptive", "smoothness"])
def test_every_weight_changes_the_gradient(term: str) -> None:
    """Acceptance 18."""

    def gradient(loss: dict[str, float]) -> Tensor:
        net = system()
        (part,) = objective(net, loss=loss).parts(clips(), 1)
        part.total.backward()  # type: ignore[no-untyped-call]
        learned = [each for each in net.parameters() if each.requires_grad]
        return torch.cat([torch.zeros(1) if p.grad is None else p.grad.flatten() for p in learned])

    base = {"l1": 1.0}
    with_term = {**base, term: 2.0}
    one, other = gradient(base), gradient(with_term)
    assert one.isfinite().all() and other.isfinite().all()
    assert not torch.allclose(one, other, rtol=1e-3, atol=1e-9)


def test_groups_have_rates_of_their_own() -> None:
    net = system()
    options = ColorizeOptions()
    groups = options.groups("g", net, 2e-3)
    assert [(group.name, group.rate) for group in groups] == [("swintexco", 1.0), ("fusion", 1.0)]
    given = ColorizeOptions.model_validate({"lr": {"swintexco": 1e-5, "fusion": 4e-3}}).groups("g", net, 2e-3)
    assert [group.rate for group in given] == pytest.approx([5e-3, 2.0])
    # Frozen parts are in none, and all that learn are in one.
    held = [id(each) for group in groups for each in group.parameters]
    assert sorted(held) == sorted(id(each) for each in net.parameters() if each.requires_grad)


def test_the_automatic_rate_follows_the_strategy() -> None:
    from atelier.colorize.matcher_options import SwinTExCoOptions

    assert SwinTExCoOptions(checkpoint=Path("folder")).usual_rate == 1e-5
    assert SwinTExCoOptions().usual_rate == 1e-4
    net = system()
    assert net.options is not None
    net.options = net.options.model_copy(update={"exemplar": SwinTExCoOptions()})
    assert ColorizeOptions().groups("g", net, 2e-4)[0].rate == pytest.approx(0.5)
    given = ColorizeOptions.model_validate({"lr": {"swintexco": 1e-5}}).groups("g", net, 1e-4)
    assert given[0].rate == pytest.approx(0.1)


def test_nothing_to_train_is_an_error() -> None:
    net = system(fusion={"type": "average"})
    net.exemplar.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        ColorizeOptions().groups("g", net, 1e-4)


def test_terms_that_need_the_backbone_say_so() -> None:
    for loss in ({"l1": 1, "contextual": 0.1}, {"l1": 1, "perceptual": {"weight": 1, "network": "embed"}}):
        with pytest.raises(UserError, match="looks at features of SwinTExCo's backbone"):
            objective(system(), loss=loss)


def handed_on(net: FusionSystem, built: ColorizeObjective, batch: ClipBatch, step: int = 1) -> Any:
    """The mask of frames that hand on true colours."""
    caught: dict[str, Any] = {}

    class Listening(nn.Module):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            caught.update(kwargs)
            return net(*args, **kwargs)

    built._net = Listening()
    list(built.parts(batch, step))
    return caught["previous_ab"]


def test_scheduled_sampling_belongs_to_samples() -> None:
    batch, net = clips(count=4, frames=4), system()
    built = objective(net, scheduled_sampling=0.5, seed=7)
    teacher = handed_on(net, built, batch)
    assert torch.equal(teacher.ab, batch.ab) and teacher.mask.shape == (4, 4)
    assert 0 < teacher.mask.float().mean() < 1
    # The same for any split into micro-batches or ranks; another for another step or seed.
    halves = [handed_on(net, built, part).mask for part in batch.split(2)]
    assert torch.equal(torch.cat(halves), teacher.mask)
    assert not torch.equal(handed_on(net, built, batch, step=2).mask, teacher.mask)
    other = objective(net, scheduled_sampling=0.5, seed=8)
    assert not torch.equal(handed_on(net, other, batch).mask, teacher.mask)
    assert handed_on(net, objective(net), batch) is None
    assert handed_on(net, objective(net, scheduled_sampling=1.0), batch).mask.all()


def test_known_motion_is_followed_unless_found_is_asked_for() -> None:
    batch, net = clips(), system()

    def temporal(**options: Any) -> float:
        (part,) = objective(net, loss={"temporal": 1.0}, **options).parts(batch, 1)
        return float(part.total.detach())

    assert temporal() == temporal(motion="known") != temporal(motion="found")


def test_motion_from_the_loader_is_the_systems_own() -> None:
    options = TrainClipsOptions(
        layout="synthetic", clip_length=3, short_side=32, batch_size_per_gpu=2, num_worker_per_gpu=0
    )
    data: Any = options.open(
        scale=1,
        degradation=BicubicOptions(),
        seed=0,
        global_batch=2,
        in_channels=1,
    )
    net = system()
    built = objective(net, motion="found")
    built.join(data)
    batch = next(iter(data.batches(1, 1)))
    assert batch.flow is not None and batch.confidence is not None
    (given,) = built.parts(batch, 1)
    (own,) = built.parts(clips(), 1)
    assert torch.equal(given.total, own.total)


def film_run(tmp_path: Path, **train: Any) -> RunOptions:
    return RunOptions.model_validate(
        {
            "name": "films",
            "num_gpu": 0,
            "objective": "colorize",
            "network_g": {"type": "FusionSystem", "fusion": {"type": "unet", "width": 4}},
            "datasets": {
                "train": {
                    "type": "clips",
                    "layout": "synthetic",
                    "clip_length": 3,
                    "short_side": 32,
                    "batch_size_per_gpu": 4,
                    "num_worker_per_gpu": 0,
                }
            },
            "path": {"experiments_root": str(tmp_path)},
            "train": {"total_iter": 2, "optim_g": {"type": "SGD", "lr": 1.0}, "ema_decay": 0, **train},
        }
    )


def gradients(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: each.grad.clone()
        for name, each in trainer.nets["g"].named_parameters()
        if each.grad is not None
    }


def test_four_micro_batches_are_one_batch(tmp_path: Path) -> None:
    """Acceptance 16: the gradient agrees to 1e-5, with every sample in place."""
    batch = clips(count=4)
    found = []
    for accumulate in (1, 4):
        trainer = Trainer(film_run(tmp_path, accumulate=accumulate), Ranks(0, 1, CPU))
        trainer.step(batch)
        found.append(gradients(trainer))
    whole, parts = found
    assert list(whole) == list(parts)
    assert max(float((whole[name] - parts[name]).abs().max()) for name in whole) < 1e-5
    assert max(float(each.abs().max()) for each in whole.values()) > 1e-3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_finite_and_near(tmp_path: Path, precision: str) -> None:
    """Row 27: colours within 2e-2 of float32; a step in half precision moves the weights and stays finite."""
    batch, net = clips(), system().eval()
    from atelier.objectives.colorize import references_of

    references = references_of(batch.reference, batch.roles)
    with torch.no_grad():
        exact = net(batch.L, references).ab
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        with torch.autocast("cpu", dtype):
            rough = net(batch.L, references).ab
    assert exact.dtype == rough.dtype == torch.float32
    assert rough.isfinite().all() and (exact - rough).abs().max() < 2e-2
    trainer = Trainer(film_run(tmp_path, precision=precision, optim_g="AdamW"), Ranks(0, 1, CPU))
    before = trainer.nets["g"].state_dict()["fusion.out.weight"].clone()
    for _ in range(2):
        trainer.step(clips(count=4))
    trainer.health.verdict()
    state = trainer.nets["g"].state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert not torch.equal(before, state["fusion.out.weight"])


@pytest.mark.parametrize(("plane", "term"), [("ab", "l_g_l1"), ("L", "the gradient of net_g")])
def test_a_bad_batch_stops_the_run_and_is_named(tmp_path: Path, plane: str, term: str) -> None:
    """Acceptance 8: step, term and samples are told before anything is saved."""
    trainer = Trainer(film_run(tmp_path, optim_g="AdamW"), Ranks(0, 1, CPU))
    trainer.step(clips(count=4))
    trainer.health.verdict()
    good = {name: value.clone() for name, value in trainer.nets["g"].state_dict().items()}
    bad = clips(count=4, step=2)
    getattr(bad, plane)[1, 0, 0, 0, 0] = float("nan")
    trainer.step(bad)
    with pytest.raises(RunStopped, match=rf"step 2: .*{term}.*not finite.*Samples of that step: .*synthetic"):
        trainer.health.verdict()
    if plane == "L":
        # The gradient was not finite, so the weights keep the bits of the last good step.
        assert all(torch.equal(good[name], value) for name, value in trainer.nets["g"].state_dict().items())


def test_a_random_backbone_must_be_kept_in_the_files() -> None:
    from atelier.colorize.matcher_swintexco import WeightSource

    net = system()
    net.exemplar.sources = {"embed_net": WeightSource("random (allow_random_backbone)")}  # type: ignore[assignment]
    with pytest.raises(UserError, match="save_frozen: true"):
        objective(net)
    assert net.options is not None
    net.options = net.options.model_copy(update={"save_frozen": True})
    objective(net)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
