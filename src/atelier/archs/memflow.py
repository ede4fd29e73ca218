"""MemFlow: optical flow of a film that remembers the motion before (Dong and Fu, CVPR 2024), "skflow" variant."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atelier.archs.flow_padding import Borders
from atelier.archs.memflow_blocks import HIDDEN, Attention, FlowEncoder, UpdateBlock
from atelier.archs.memflow_correlation import Correlation
from atelier.archs.memflow_options import MemFlowOptions
from atelier.errors import UserError


class FlowMemory(NamedTuple):
    """Keys and values of earlier pairs, ``[B, pairs, positions, 128]`` each, oldest first; detached."""

    keys: Tensor
    values: Tensor


class MemFlowOutput(NamedTuple):
    """What :class:`MemFlow` gives.

    Attributes:
        flow: ``[B, 2, H, W]``, from the first picture into the second, on the first one's grid, in pixels.
        flow_low: the same before upsampling, on the grid of an eighth of the padded picture, in its positions.
        peakedness: ``[B, 1, H, W]`` in [0, 1], how sharply the upsampling chose (1: one neighbour; 0: all nine alike).
            It tells nothing of occlusion.
        memory: for the next pair.
    """

    flow: Tensor
    flow_low: Tensor
    peakedness: Tensor
    memory: FlowMemory


class MemFlow(nn.Module):
    """The network under the official names; :func:`atelier.archs.memflow_files.load_memflow` reads its files.

    Args:
        options: iterations, memory and the like; None: the defaults.
    """

    def __init__(self, options: MemFlowOptions | None = None) -> None:
        super().__init__()
        self.options = options or MemFlowOptions()
        self.cnet = FlowEncoder(nn.BatchNorm2d)
        self.fnet = FlowEncoder(nn.InstanceNorm2d)
        self.update_block = UpdateBlock()
        self.att = Attention()

    def forward(self, first: Tensor, second: Tensor, memory: FlowMemory | None = None) -> MemFlowOutput:
        """The flow from ``first`` to ``second``.

        Args:
            first, second: ``[B, 3, H, W]`` in [-1, 1]. Smaller than 128 pixels or no multiple of 8 is padded.
            memory: what the pair before of the same size gave; None at the beginning.

        Raises:
            UserError: ``memory`` is of another size or batch.
        """
        borders = Borders.around(*first.shape[-2:])
        features = self.fnet(torch.cat([borders.pad(first), borders.pad(second)]))
        own, others = features.chunk(2)
        return self._flow(borders, borders.pad(first), own, others, memory)

    def both_ways(self, first: Tensor, second: Tensor, memory: FlowMemory | None = None) -> MemFlowOutput:
        """The flow from ``first`` to ``second`` and the opposite one, in one pass of twice the batch.

        Items 0...B-1 of the result and of ``memory`` belong to the pair (first, second), the others to the opposite.
        """
        borders = Borders.around(*first.shape[-2:])
        pictures = torch.cat([borders.pad(first), borders.pad(second)])
        features = self.fnet(pictures)
        return self._flow(borders, pictures, features, features.roll(first.shape[0], 0), memory)

    def _flow(
        self, borders: Borders, first: Tensor, features: Tensor, others: Tensor, memory: FlowMemory | None
    ) -> MemFlowOutput:
        """``first`` is padded; ``features`` are those of it, ``others`` those of its partner."""
        _require_fitting(memory, features)
        correlation = Correlation(features, others, self.options.correlation_mib)
        net, context = self.cnet(first).split(HIDDEN, dim=1)
        net, context = net.tanh(), context.relu()
        query, key = (_positions(maps) for maps in self.att.to_qk(context).chunk(2, dim=1))
        keys = _with_memory(None if memory is None else memory.keys, key)
        remembered = None if memory is None else memory.values
        scale = HIDDEN**-0.5 * math.log(keys.shape[2]) / math.log(self.options.train_avg_length)
        update = self.update_block
        start = _grid(features)
        flow = torch.zeros_like(start)
        for _ in range(self.options.iterations):
            flow = flow.detach()
            motion = update.encoder(flow, correlation.look_up(start + flow))
            value = _positions(update.aggregator.to_v(motion))
            # One head; "keys" may be longer than "query".
            read = F.scaled_dot_product_attention(query, keys, _with_memory(remembered, value), scale=scale)
            read = read[:, 0].transpose(1, 2).reshape(motion.shape)
            informed = motion + update.aggregator.gamma * read
            net = update.gru(torch.cat([net, context, motion, informed], dim=1))
            flow = flow + update.flow_head(net).float()
        weights = (0.25 * update.mask(net)).float().unflatten(1, (9, 8, 8)).softmax(dim=1)
        return MemFlowOutput(
            borders.crop(_upsampled(flow, weights)),
            flow,
            borders.crop(_peakedness(weights)),
            self._extended(memory, key[:, 0], value[:, 0]),
        )

    def _extended(self, memory: FlowMemory | None, key: Tensor, value: Tensor) -> FlowMemory:
        """``memory`` with one pair more and, where it is full, the oldest one less."""
        key, value = key.detach()[:, None], value.detach()[:, None]
        if memory is not None:
            key, value = torch.cat([memory.keys, key], dim=1), torch.cat([memory.values, value], dim=1)
        newest = slice(-self.options.memory_frames, None)
        # A copy: a view would keep what it was cut from alive.
        return FlowMemory(key[:, newest].clone(), value[:, newest].clone())


def _require_fitting(memory: FlowMemory | None, features: Tensor) -> None:
    batch, positions = features.shape[0], features[0, 0].numel()
    if memory is not None and (memory.keys.shape[0], memory.keys.shape[2]) != (batch, positions):
        raise UserError(
            f"MemFlow: the memory is of {memory.keys.shape[0]} pairs with {memory.keys.shape[2]} positions each, the "
            f"pictures have {batch} with {positions}; another size or batch begins with an empty memory"
        )


def _positions(maps: Tensor) -> Tensor:
    """``[B, C, h, w]`` to one head of attention, ``[B, 1, h·w, C]``.

    Contiguous, because the kernel that never makes the whole attention matrix needs neighbouring channels.
    """
    return maps.flatten(2).transpose(1, 2)[:, None].contiguous()


def _with_memory(remembered: Tensor | None, current: Tensor) -> Tensor:
    """What is remembered ``[B, pairs, N, C]`` before what is current ``[B, 1, N, C]``, as one head."""
    if remembered is None:
        return current
    return torch.cat([remembered.flatten(1, 2)[:, None].to(current.dtype), current], dim=2)


def _grid(features: Tensor) -> Tensor:
    """(x, y) of each position ``[B, 2, h, w]``, float32."""
    batch, _, height, width = features.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=features.device, dtype=torch.float32),
        torch.arange(width, device=features.device, dtype=torch.float32),
        indexing="ij",
    )
    return torch.stack([x, y]).expand(batch, -1, -1, -1)


def _upsampled(flow: Tensor, weights: Tensor) -> Tensor:
    """Convex upsampling by 8 (RAFT, section 3.3): flow in positions ``[B, 2, h, w]`` to pixels ``[B, 2, 8h, 8w]``.

    ``weights [B, 9, 8, 8, h, w]`` mix the 3x3 neighbours, zeros beyond the border, into each of the 64 pixels.
    """
    batch, _, height, width = flow.shape
    neighbours = F.unfold(8 * flow, 3, padding=1).view(batch, 2, 9, height, width)
    with torch.autocast(flow.device.type, enabled=False):
        mixed = torch.einsum("bnijhw,bcnhw->bchiwj", weights, neighbours)
    return mixed.reshape(batch, 2, 8 * height, 8 * width)


def _peakedness(weights: Tensor) -> Tensor:
    """1 - entropy / ln 9 of ``weights [B, 9, 8, 8, h, w]``, averaged over the 64 pixels, at full size."""
    entropy = torch.special.entr(weights).sum(dim=1).mean(dim=(1, 2))
    sharp = (1 - entropy / math.log(9))[:, None]
    enlarged = F.interpolate(sharp, scale_factor=8, mode="bilinear", align_corners=True)
    return enlarged.clamp(0, 1)
