"""The frozen Swin features: official names, any size, three forms of weight files, and what happens without weights."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from torch import Tensor

from archs.golden import shapes_of
from atelier.archs import swintexco_backbone
from atelier.archs.swintexco_backbone import MODEL, REPOSITORY, find_backbone
from atelier.archs.swintexco_embed import SwinEmbedNet, embed_state
from atelier.errors import UserError
from support import free_port


@pytest.fixture(scope="module")
def net() -> SwinEmbedNet:
    torch.manual_seed(0)
    return SwinEmbedNet()


def test_names_and_shapes_are_the_official_ones(net: SwinEmbedNet) -> None:
    state = net.state_dict()
    assert len(state) == 225
    assert {key: tuple(value.shape) for key, value in state.items()} == shapes_of("swintexco_embed")


def test_it_has_the_official_count_of_parameters_and_all_are_frozen(net: SwinEmbedNet) -> None:
    assert sum(p.numel() for p in net.parameters()) == 27_564_468
    assert not any(p.requires_grad for p in net.parameters())
    assert not any(module.training for module in net.train().modules())


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 32)])
def test_any_multiple_of_32_gives_unit_features(net: SwinEmbedNet, height: int, width: int) -> None:
    levels = net(torch.rand(2, 3, height, width))
    for level, channels in enumerate((96, 192, 384, 768)):
        assert levels[level].shape == (2, channels, height >> (level + 1), width >> (level + 1))
        assert torch.allclose(levels[level].norm(dim=1), torch.ones(1), atol=1e-5)
        assert torch.equal(levels[level][..., ::2, ::2], levels[level][..., 1::2, 1::2])


def test_at_224_it_is_timms_network_of_that_fixed_size_bit_for_bit(net: SwinEmbedNet) -> None:
    fixed = timm.create_model(MODEL, pretrained=False, features_only=True, out_indices=(0, 1, 2, 3)).eval()
    fixed.load_state_dict(net.pretrained.state_dict())
    picture = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        for own, other in zip(net.pretrained(picture), fixed(picture), strict=True):
            assert torch.equal(own, other)


def test_a_side_that_does_not_fit_is_named(net: SwinEmbedNet) -> None:
    with pytest.raises(ValueError, match="multiples of 32, got 64x40"):
        net(torch.rand(1, 3, 64, 40))


@pytest.mark.parametrize("form", ["SwinTExCo", "features", "classifier"])
def test_three_forms_of_a_file_are_the_same_weights(form: str) -> None:
    with torch.device("meta"):
        if form == "SwinTExCo":
            state = {f"pretrained.{key}": value for key, value in _features().items()}
        elif form == "features":
            state = _features()
        else:
            state = timm.create_model(MODEL, pretrained=False).state_dict()
            assert len(state) == 227 and "stages.0.blocks.0.attn.qkv.weight" in state
    read = embed_state(state, "a file")
    assert {key: tuple(value.shape) for key, value in read.items()} == shapes_of("swintexco_embed")


def _features() -> dict[str, Tensor]:
    state: dict[str, Tensor] = timm.create_model(MODEL, pretrained=False, features_only=True).state_dict()
    return state


def test_a_file_of_something_else_is_told() -> None:
    with pytest.raises(
        UserError, match=r"w\.pth holds no weights of the backbone.*its first key is 'conv\.weight'"
    ):
        embed_state({"conv.weight": torch.zeros(1)}, "w.pth")


# What happens where timm's cache is empty.


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """What HF_ENDPOINT would do at the start of Python."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, f"http://127.0.0.1:{port}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")


def names_three_remedies(message: str) -> bool:
    return all(
        words in message for words in ("backbone_weights: FILE", "fill timm's cache", "exemplar: tiny")
    )


def test_a_hub_that_refuses_is_one_error_with_three_remedies(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, free_port())
    with pytest.raises(UserError, match="cannot be reached") as error:
        find_backbone()
    assert names_three_remedies(str(error.value)) and "\n" not in str(error.value)


def test_a_hub_that_never_answers_is_not_waited_for(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert swintexco_backbone._PATIENCE < 5
    monkeypatch.setattr(swintexco_backbone, "_PATIENCE", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        use(monkeypatch, silent.getsockname()[1])
        with pytest.raises(UserError) as error:
            find_backbone()
    assert names_three_remedies(str(error.value))


def test_a_name_that_is_never_found_is_not_waited_for(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(swintexco_backbone, "_PATIENCE", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: released.wait(60) and [])
    with pytest.raises(UserError, match=r"no answer within 0\.2 seconds"):
        find_backbone()
    released.set()


@pytest.mark.parametrize("setting", ["HF_HUB_OFFLINE", "no download"])
def test_nothing_is_asked_where_nothing_may_be(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", setting == "HF_HUB_OFFLINE")
    monkeypatch.setattr(swintexco_backbone, "_no_answer", lambda url: pytest.fail("the network was asked"))
    with pytest.raises(UserError) as error:
        find_backbone(download=setting != "no download")
    assert names_three_remedies(str(error.value))


def test_timms_cache_is_found_without_network(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swintexco_backbone, "_no_answer", lambda url: pytest.fail("the network was asked"))
    folder = empty_cache / f"models--{REPOSITORY.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    weights = folder / "snapshots" / ("0" * 40) / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert find_backbone() == weights


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as one file needs."""

    content = b"weights"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("ETag", '"' + "a" * 64 + '"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(self.content)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_hub_that_answers_fills_the_cache(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, hub: int
) -> None:
    use(monkeypatch, hub)
    found = find_backbone()
    assert found.read_bytes() == _Hub.content and empty_cache in found.parents
    monkeypatch.setattr(
        swintexco_backbone, "_no_answer", lambda url: pytest.fail("the network was asked again")
    )
    assert find_backbone() == found


def test_a_download_that_fails_is_the_same_error(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, hub: int
) -> None:
    use(monkeypatch, hub)
    monkeypatch.setattr(_Hub, "do_GET", lambda self: self.send_error(403, "not from here"))
    with pytest.raises(UserError, match="the download failed") as error:
        find_backbone()
    assert names_three_remedies(str(error.value)) and "\n" not in str(error.value)
