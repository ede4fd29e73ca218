"""What an objective is told of its run before anything is built."""

from __future__ import annotations

from typing import Any

import torch

from atelier.data.options import TrainImagesOptions
from atelier.objectives.base import Setting
from atelier.options.schema import RunOptions

#: Of a training set, what says where its pictures are and how they are loaded, not what a sample is. The pictures
#: themselves are told by the data's fingerprint.
_WHERE = {
    "type",
    "name",
    "dataroot_gt",
    "dataroot_lq",
    "pictures",
    "meta_info",
    "filename_tmpl",
    "batch_size_per_gpu",
    "num_worker_per_gpu",
    "prefetch",
    "pin_memory",
}


def setting_of(
    options: RunOptions, device: torch.device, *, world: int = 1, data: str | None = None
) -> Setting:
    """The setting of a run of ``world`` processes; without ``data``, the data's fingerprint, its plan is not known."""
    train, network = options.datasets.train, options.network_g
    return Setting(
        seed=options.manual_seed,
        total_iter=options.train.total_iter,
        scale=options.scale,
        channels=(network.in_channels, network.out_channels),
        lq_size=train.gt_size // options.scale if isinstance(train, TrainImagesOptions) else 0,
        device=device,
        several=world > 1,
        samples=train.batch_size_per_gpu * world,
        together=train.batch_size_per_gpu // options.train.accumulate,
        plan=_plan(options, data) if data is not None else None,
        cache_root=options.cache.root,
    )


def _plan(options: RunOptions, data: str) -> dict[str, Any]:
    train = options.datasets.train
    made = options.effective_degradation if train.needs_degradation else None
    return {
        "data": data,
        "sampling": train.model_dump(mode="json", exclude=_WHERE),
        "degradation": made.model_dump(mode="json") if made is not None else None,
        # These decide which kernels run, and so the last bits of an answer.
        "channels_last": options.train.channels_last,
        "deterministic": options.train.deterministic,
    }
