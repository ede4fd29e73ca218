"""Fresh weights by one rule for a whole network: KAIR's ``init_type``, ``init_gain`` and ``init_bn_type``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from atelier.archs.initialise_options import WeightInitOptions

Rule = Callable[[Tensor, float], object]


def _normal(weight: Tensor, gain: float) -> None:
    nn.init.normal_(weight, 0, 0.1).clamp_(-1, 1).mul_(gain)


def _uniform(weight: Tensor, gain: float) -> None:
    nn.init.uniform_(weight, -0.2, 0.2).mul_(gain)


def _xavier_normal(weight: Tensor, gain: float) -> None:
    nn.init.xavier_normal_(weight, gain).clamp_(-1, 1)


def _kaiming_normal(weight: Tensor, gain: float) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity="relu").clamp_(-1, 1).mul_(gain)


def _kaiming_uniform(weight: Tensor, gain: float) -> None:
    nn.init.kaiming_uniform_(weight, nonlinearity="relu").mul_(gain)


_RULES: dict[str, Rule] = {
    "normal": _normal,
    "uniform": _uniform,
    "xavier_normal": _xavier_normal,
    "xavier_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": _kaiming_normal,
    "kaiming_uniform": _kaiming_uniform,
    "orthogonal": nn.init.orthogonal_,
}


@torch.no_grad()
def initialise(net: nn.Module, options: WeightInitOptions) -> None:
    """Draw every convolution and linear weight anew, in place, from torch's global generator.

    Biases become 0. ``normal``: deviation 0.1; ``uniform``: ±0.2; the others are the rules of those names (Glorot and
    Bengio, AISTATS 2010; He et al., ICCV 2015, fan-in of ReLU; Saxe et al., ICLR 2014). ``normal`` and the two normal
    rules are cut at ±1. Xavier and orthogonal scale by ``gain`` inside the rule, the others afterwards. Batch
    normalisations get bias 0 and slopes from U(0.1, 1) (``bn_type: uniform``) or 1. All else keeps its own start:
    layer normalisations, position tables, PReLU slopes.
    """
    rule = _RULES[options.type]
    for module in net.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            rule(module.weight, options.gain)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, _BatchNorm) and module.affine:
            if options.bn_type == "uniform":
                nn.init.uniform_(module.weight, 0.1, 1.0)
            else:
                module.weight.fill_(1)
            module.bias.zero_()
