"""Building a system: arguments, options, names, what is frozen, what is saved, several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from atelier.archs.fusion import ConfidenceAverage, SimpleFusionNet, UNetFusionNet
from atelier.archs.fusion_options import UNetFusionOptions
from atelier.colorize import FusionSystem, FusionSystemOptions, References
from atelier.colorize.flow_dis import DisFlow
from atelier.colorize.matcher_options import TinyExemplarOptions
from atelier.colorize.matcher_tiny import TinyMatcher
from atelier.errors import UserError
from colorize.films import CountingFlow, film, lively, references_for, small_system
from support import free_port


def test_options_alone_need_no_torch() -> None:
    code = (
        "import sys; from atelier.colorize.system_options import FusionSystemOptions as O; "
        "o = O.model_validate({'flow': 'dis', 'exemplar': 'tiny', 'fusion': {'type': 'unet', 'width': 8}}); "
        "assert o.size_multiple == 4 and (o.scale, o.in_channels, o.out_channels) == (1, 1, 2); "
        "O.model_json_schema(); print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_arguments_and_options_build_the_same() -> None:
    system = small_system(UNetFusionNet(8))
    assert isinstance(system.flow, DisFlow) and isinstance(system.exemplar, TinyMatcher)
    assert system.options == FusionSystemOptions(fusion=UNetFusionOptions(width=8))
    again = system.options.build()
    assert again.state_dict().keys() == system.state_dict().keys()
    written = FusionSystemOptions.model_validate(system.options.model_dump(mode="json"))
    assert written == system.options and written.fusion == UNetFusionOptions(width=8)
    assert isinstance(small_system().fusion, ConfidenceAverage)
    assert FusionSystem(options={"fusion": "simple"}).options.fusion.type == "simple"
    mapping = FusionSystem(
        flow={"type": "dis", "confidence": "photometric"}, exemplar=TinyExemplarOptions(seed=3)
    )
    assert mapping.options.flow.confidence == "photometric" and mapping.options.exemplar.seed == 3
    assert small_system(nn.Identity()).options is None


def test_aliases_are_the_parts_and_no_parts_of_their_own() -> None:
    system = small_system(SimpleFusionNet())
    assert system.memflow is system.flow and system.swintexco is system.exemplar
    assert system.fusion_unet is system.fusion
    assert [name for name, _ in system.named_children()] == ["flow", "exemplar", "fusion"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"flow": "dis", "memflow_ckpt": "m.pth"}, "memflow_ckpt belong to flow 'memflow', given flow 'dis'"),
        ({"flow": "diss"}, "unknown flow 'diss'; did you mean 'dis'"),
        ({"flow": 3}, "flow is 'auto', dis, memflow, raft, options or a module, not int"),
        ({"flow": "dis", "exemplar": "tiny", "swintexco_ckpt": "x"}, "belong to exemplar 'swintexco'"),
        ({"exemplar": "tiny", "freeze_swintexco": True}, "freeze_swintexco"),
        ({"exemplar": TinyExemplarOptions(), "backbone_weights": "x"}, "contradict each other"),
        ({"exemplar": {"type": "tiny", "sed": 1}}, "sed"),
        ({"exemplar": "tiny", "fusion_net": "unet"}, "fusion_net is a network or its options"),
        ({"options": {}, "flow": "dis"}, "give them alone"),
        ({"options": {"flow": "dis", "fusoin": "unet"}}, "fusoin"),
        ({"exemplar": "tiny", "memflow_ckpt": "absent.pth"}, "absent.pth"),
    ],
)
def test_contradictions_are_named(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FusionSystem(**given)  # type: ignore[arg-type]


def test_older_paths_are_ignored_with_one_warning() -> None:
    with pytest.warns(UserWarning, match="memflow_path and swintexco_path ignored") as caught:
        FusionSystem("MemFlow", "SwinTExCo", exemplar="tiny")
    assert len(caught) == 1


def test_frozen_parts_stay_frozen_in_training() -> None:
    system = small_system(SimpleFusionNet(), CountingFlow())
    assert system.train() is system and system.eval() is system
    system.train()
    assert not system.flow.training and system.exemplar.training and system.fusion.training
    assert not any(p.requires_grad for p in system.flow.parameters())
    system.exemplar.requires_grad_(False)
    system.train()
    assert not system.exemplar.training and not system.exemplar.net.training
    assert [len(group["params"]) for group in system.get_parameter_groups()] == [0, 14]


def test_state_dict_is_complete_and_round_trips() -> None:
    system = lively(small_system(UNetFusionNet(8), CountingFlow())).eval()
    state = system.state_dict()
    assert {key.split(".")[0] for key in state} == {"flow", "exemplar", "fusion"}
    assert [name for name, _ in system.named_parameters()] == [
        key for key in state if key in dict(system.named_parameters())
    ]
    assert len(list(system.parameters())) == len(dict(system.named_parameters()))
    torch.manual_seed(5)
    other = small_system(UNetFusionNet(8), CountingFlow(0.0, 0.0)).eval()
    clip = film()
    given = (clip[:, :, :1], references_for(clip))
    assert not torch.equal(other(*given).ab, system(*given).ab)
    other.load_state_dict(state)
    assert torch.equal(other(*given).ab, system(*given).ab)


def test_moving_moves_everything() -> None:
    system = small_system(UNetFusionNet(8), CountingFlow(), device="meta")
    assert {value.device.type for value in system.state_dict().values()} == {"meta"}


def gradients_of(system: nn.Module, clip: Tensor) -> Tensor:
    system.zero_grad()
    out = system(clip[:, :, :1], References(clip[:, :1].clone(), ("exemplar",)))
    ((out.ab - clip[:, :, 1:]) ** 2).mean().backward()
    return torch.cat([p.grad.flatten() for p in system.parameters() if p.requires_grad])


def ddp_system() -> FusionSystem:
    torch.manual_seed(0)
    return lively(small_system(UNetFusionNet(8))).train()


def _rank(rank: int, port: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        wrapped = DistributedDataParallel(ddp_system(), find_unused_parameters=False)
        clip = film(2, 3)[rank : rank + 1]
        # Twice: parameters without a gradient in the first step would stop the second.
        gradients_of(wrapped, clip)
        torch.save(gradients_of(wrapped, clip), Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_find_the_gradient_of_one(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, args=(free_port(), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    alone = gradients_of(ddp_system(), film(2, 3))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(gradients_of(ddp_system(), film(2, 3)[:1]), alone, atol=1e-6, rtol=1e-3)


def test_batches_in_pieces_give_the_gradient_of_the_whole() -> None:
    whole = gradients_of(ddp_system(), film(2, 3))
    system = ddp_system()
    pieces = [gradients_of(system, film(2, 3)[item : item + 1]) for item in range(2)]
    torch.testing.assert_close((pieces[0] + pieces[1]) / 2, whole, atol=1e-5, rtol=1e-4)
