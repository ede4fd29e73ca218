"""AdamW that needs no learning-rate schedule (Defazio et al., "The Road Less Scheduled", NeurIPS 2024)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class AdamWScheduleFree(Optimizer):
    """Algorithm 1 of the paper, without its warm-up (the run's ``warmup_iter`` scales ``lr`` instead).

    Three sequences of weights: z takes the steps, x is their running average, gradients are taken at
    y = (1 - β1) z + β1 x. With γ = lr · sqrt(1 - β2^t):

        v = β2 v + (1 - β2) g²;  z = z - γ (g / (sqrt(v) + eps) + weight_decay · y);  x = (1 - c) x + c z,
        c = γ² / (sum of γ² up to now)

    The parameters hold y in training mode and x in eval mode. x is kept although y and z determine it (one
    more copy of the weights): recomputing it rounds, and a run that was validated or resumed must equal one
    that was not.

    It begins at the weights that the parameters hold when it is built; :meth:`begin` where others were loaded since.
    Supports the ``grad_scale`` and ``found_inf`` attributes of
    torch's ``GradScaler`` as fused optimisers do.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.training = True
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.begin()

    def begin(self) -> None:
        """Begin at the weights that the parameters hold now: no step was taken."""
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param] = {
                    "x": param.detach().clone(),
                    "z": param.detach().clone(),
                    "exp_avg_sq": torch.zeros_like(param),
                }
            # On the device, because a skipped step must not count and only the device knows of it. In the
            # group, because torch casts per-parameter state to the parameter's dtype when loading, and the
            # sum needs 64 bits: it grows for the whole run by ever smaller shares.
            device = group["params"][0].device
            dtype = torch.float32 if device.type == "mps" else torch.float64
            group["step"] = torch.zeros((), dtype=dtype, device=device)
            group["weight_sum"] = torch.zeros((), dtype=dtype, device=device)

    def eval(self) -> None:
        """Put the average x into the parameters: the weights to validate, save and use."""
        self.training = False
        self._show()

    def train(self) -> None:
        """Put y into the parameters: the weights at which gradients are taken."""
        self.training = True
        self._show()

    @torch.no_grad()
    def _show(self) -> None:
        for group in self.param_groups:
            states = [self.state[param] for param in group["params"]]
            shown = [state["x"] for state in states]
            if self.training:
                shown = _between(shown, [state["z"] for state in states], group["betas"][0])
            torch._foreach_copy_(group["params"], shown)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back the state and put the weights of the current mode into the parameters."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name in ("step", "weight_sum"):
                # A copy: a group may not count in the tensor of another.
                group[name] = group[name].to(group["params"][0].device, copy=True)
        self._show()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step on the parameters that have a gradient; raises RuntimeError in eval mode."""
        if not self.training:
            raise RuntimeError("AdamWScheduleFree.step() in eval mode: call train() first")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        params: list[Tensor] = [param for param in group["params"] if param.grad is not None]
        if not params:
            return
        beta1, beta2 = group["betas"]
        grads = [param.grad for param in params if param.grad is not None]
        x, z, squares = ([self.state[param][name] for param in params] for name in ("x", "z", "exp_avg_sq"))
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None:
            grads = list(torch._foreach_mul(grads, scale.reciprocal().to(grads[0].dtype)))
        skip: Tensor | None = getattr(self, "found_inf", None)
        taken: Tensor | float = 1.0
        if skip is not None:
            # Every change below is multiplied by 0 then; the gradients too, as 0 times infinity is no 0.
            taken = 1 - skip.to(group["step"].dtype)
            grads = [torch.where(skip.bool(), 0, grad) for grad in grads]

        group["step"] += taken
        rate = group["lr"] * (1 - beta2 ** group["step"]).sqrt() * taken
        group["weight_sum"] += rate.square()
        share = rate.square() / group["weight_sum"].clamp_min(torch.finfo(rate.dtype).tiny)
        kept = (1 - (1 - beta2) * taken) * torch.ones_like(rate)

        dtype = params[0].dtype
        torch._foreach_mul_(squares, kept.to(dtype))
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        root = torch._foreach_sqrt(squares)
        torch._foreach_add_(root, group["eps"])
        change = torch._foreach_div(grads, root)
        if group["weight_decay"]:
            torch._foreach_add_(change, params, alpha=group["weight_decay"])
        torch._foreach_mul_(change, rate.to(dtype))
        torch._foreach_sub_(z, change)
        towards = torch._foreach_sub(z, x)
        torch._foreach_mul_(towards, share.to(dtype))
        torch._foreach_add_(x, towards)
        torch._foreach_copy_(params, _between(x, z, beta1))


def _between(x: list[Tensor], z: list[Tensor], beta1: float) -> list[Tensor]:
    """y = (1 - β1) z + β1 x, always by the same operation, so that the same x and z give the same bits."""
    return list(torch._foreach_lerp(x, z, 1 - beta1))
