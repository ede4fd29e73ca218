"""The seed's training command becomes a run of ours: every flag is mapped, named with the reason, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from atelier.errors import UserError
from atelier.options.foreign import Conversion, ForeignTree
from atelier.options.foreign_text import converted_yaml
from atelier.options.fusion_train_table import TABLE
from atelier.options.fusion_train_words import read_words
from atelier.options.messages import show, validate_tree
from atelier.options.overrides import apply_overrides, parse_override
from atelier.options.schema import RunOptions

#: What ``--from`` calls the command.
PROGRAM = "fusion-train"
#: Steps of a run that says neither epochs nor steps, as in options/colorize/.
_STEPS = 40_000
_TOTAL = "train.total_iter"

#: Flag -> what the options of the augmentation call it, where the value goes over as it is.
_AUGMENT = "datasets.train.reference.augment"
_SINGLE = {
    "--rgb_flip_prob": "permute",
    "--horizontal_flip_prob": "flip",
    "--tps_prob": "tps",
    "--tps_strength": "tps_strength",
}
_FACTORS = {"--saturation_range": "saturation", "--brightness_range": "brightness"}
_OF_AUGMENTATION = ("--augmentation_preset", "--hue_range", *_FACTORS, *_SINGLE)


def options_of_flags(words: Sequence[str]) -> RunOptions:
    """The checked options of a run for the command's words; ``key=value`` words override by our names.

    Raises:
        UserError: unknown or contradicting flags, values that cannot be, files that are not there.
    """
    tree, notes = _tree_of(words)
    options = validate_tree(RunOptions, tree)
    options._notes.extend(notes)
    return options


def text_of_flags(words: Sequence[str]) -> tuple[str, list[str]]:
    """The same as an option file of ours (YAML, short), and the notes of the conversion."""
    tree, notes = _tree_of(words)
    options = validate_tree(RunOptions, tree)
    return f"# Converted from flags of {PROGRAM}.\n" + converted_yaml(tree.data, options), notes


def _tree_of(words: Sequence[str]) -> tuple[ForeignTree, list[str]]:
    given, overrides = read_words(words)
    steps = next(
        (value for keys, value in map(parse_override, reversed(overrides)) if ".".join(keys) == _TOTAL), None
    )
    conversion = FlagConversion(None, given, {})
    with conversion.problems_first():
        _convert(conversion, steps)
        conversion.finish()
    converted = conversion.tree
    tree = apply_overrides(converted.data, overrides)
    return ForeignTree(None, tree.data, {}, tree.overrides, converted.sources), conversion.notes


class FlagConversion(Conversion):
    """One conversion of a command's words; what is written knows the flag that it came from."""

    table = TABLE
    sections_read = ()
    data_sets = ()
    strict = True

    def carry(
        self, name: str, ours: str, otherwise: Any = None, *, change: Callable[[Any], Any] = lambda v: v
    ) -> Any:
        """Put a flag's value at ``ours``, or ``otherwise`` where the flag is left out and that is not None."""
        value = self.get(name)
        if value is not None:
            self.put(ours, change(value), (name,))
        elif otherwise is not None:
            self.put(ours, otherwise)
        return value

    def without_effect(self, names: Iterable[str], why: str) -> None:
        """Note those of the flags that are given."""
        for name in names:
            if self.get(name) is not None:
                self.note(f"does nothing: {why}", (name,))


def _convert(conversion: FlagConversion, steps: Any) -> None:
    pretrained = conversion.has("--swintexco_ckpt")
    conversion.put("name", "fusion_finetune" if pretrained else "fusion_scratch")
    conversion.put("objective", {"type": "colorize"})
    _convert_network(conversion)
    _convert_data(conversion)
    conversion.put("loss", {"l1": 1.0, "exemplar": 0.5})
    _convert_motion_terms(conversion)
    _convert_steps(conversion, steps)
    _convert_run(conversion)


def _convert_network(conversion: FlagConversion) -> None:
    conversion.put("network_g", {"type": "FusionSystem"})
    if conversion.has("--memflow_ckpt"):
        conversion.put("network_g.flow", {"type": "memflow"})
        conversion.carry("--memflow_ckpt", "network_g.flow.weights")
    else:
        conversion.put("network_g.flow", {"type": "dis"})
        conversion.note("--memflow_ckpt is left out: motion is OpenCV's (flow: {type: dis})", ())
    conversion.put("network_g.exemplar", {"type": "swintexco"})
    conversion.carry("--swintexco_ckpt", "network_g.exemplar.checkpoint")
    conversion.carry("--freeze_swintexco", "network_g.exemplar.freeze")
    conversion.put("network_g.fusion", {"type": "unet", "width": 16})


def _convert_data(conversion: FlagConversion) -> None:
    if not conversion.has("--dataset"):
        conversion.problem("--dataset is needed: the folders that hold the films, A,B", ())
    train = "datasets.train"
    conversion.put(train, {"type": "clips"})
    roots = [Path(each) for each in conversion.get("--dataset", default=())]
    layout = _layout(roots)
    if layout == "folders" and conversion.has("--imagenet"):
        raise conversion.error(
            "its pictures are references that a table names, and there is none (.csv) in "
            f"{', '.join(map(str, roots))}; leave it out (pictures of a film may lie in FILM.refs/ beside it), or "
            "put the table there",
            ("--imagenet",),
        )
    conversion.put(f"{train}.layout", layout, ("--dataset",))
    conversion.carry("--dataset", f"{train}.roots")
    conversion.carry("--imagenet", f"{train}.reference_roots")
    conversion.carry("--sequence_length", f"{train}.clip_length", 3)
    _convert_size(conversion)
    batch, parts = (
        conversion.get("--batch_size", default=2),
        conversion.get("--accumulation_steps", default=1),
    )
    conversion.put(f"{train}.batch_size_per_gpu", batch * parts, ("--batch_size",))
    conversion.put("train.accumulate", parts, ("--accumulation_steps",))
    conversion.carry("--real_reference_probability", f"{train}.reference.external")
    _convert_augmentation(conversion)


def _layout(roots: Sequence[Path]) -> str:
    """``folders`` where all roots are there and none holds a table."""
    there = [root for root in roots if root.is_dir()]
    tables = any(path.suffix.lower() == ".csv" for root in there for path in root.iterdir())
    return "folders" if there and len(there) == len(roots) and not tables else "csv"


def _convert_size(conversion: FlagConversion) -> None:
    name, train = "--target_size", "datasets.train"
    size = conversion.get(name, default=[224])
    conversion.put(f"{train}.short_side", min(size), (name,))
    if len(set(size)) > 1:
        conversion.put(f"{train}.crop", size, (name,))


def _convert_augmentation(conversion: FlagConversion) -> None:
    single = [name for name in _OF_AUGMENTATION if conversion.has(name)]
    wanted = conversion.get("--augment_reference", default=False)
    if not wanted and not single:
        return
    if not wanted and conversion.get("--augmentation_preset") != "none":
        conversion.note("takes effect, although --augment_reference is left out", (single[0],))
    conversion.put(f"{_AUGMENT}.preset", "moderate", ("--augment_reference",))
    conversion.carry("--augmentation_preset", f"{_AUGMENT}.preset")
    name = "--hue_range"
    hue = conversion.get(name)
    if hue is not None:
        if len(hue) == 2 and hue[0] != -hue[1]:
            conversion.problem(
                f"given {show(hue)}; hue turns both ways alike here: give one number, ± degrees", (name,)
            )
        conversion.put(f"{_AUGMENT}.hue", abs(hue[-1]), (name,))
    for name, ours in _FACTORS.items():
        factors = conversion.get(name)
        if factors is not None:
            if len(factors) == 1:
                conversion.problem(
                    f"given {show(factors[0])}, two factors belong here, such as 0.8 1.2", (name,)
                )
            conversion.put(f"{_AUGMENT}.{ours}", factors, (name,))
    for name, ours in _SINGLE.items():
        conversion.carry(name, f"{_AUGMENT}.{ours}")


def _convert_motion_terms(conversion: FlagConversion) -> None:
    if conversion.get("--use_adaptive_temporal", default=False):
        conversion.put("loss.adaptive", {"weight": 0.5, "smooth": 0.3}, ("--use_adaptive_temporal",))
        conversion.carry("--lambda_temporal", "loss.adaptive.weight")
        conversion.carry("--lambda_smooth", "loss.adaptive.smooth")
    else:
        conversion.put("loss.temporal", {"weight": 0.2})
        conversion.carry("--lambda_temporal", "loss.temporal.weight")
        conversion.without_effect(
            ["--lambda_smooth"], "it is a share of the term that --use_adaptive_temporal adds"
        )
    conversion.put("loss.contextual", {"weight": 0.015})
    conversion.carry("--contextual_chunk_size", "loss.contextual.chunk")
    conversion.note(
        "the perceptual term of the seed is left out, because it needs VGG's weights; loss.perceptual=0.05 adds it",
        (),
    )


def _convert_steps(conversion: FlagConversion, steps: Any) -> None:
    """All that the seed counts in epochs."""
    gan = ("--epoch_train_discriminator", "--lr_discriminator")
    judged = bool(conversion.get("--weight_gan", default=0))
    if not judged:
        conversion.without_effect(gan, "there is a discriminator only with --weight_gan")
    counted = {
        "--epochs": steps is None,
        "--epoch_train_discriminator": judged,
        "--save_freq": True,
    }
    asking = [name for name, needed in counted.items() if needed and conversion.has(name)]
    epoch = _steps_of_an_epoch(conversion, asking) if asking else 0
    epochs = conversion.get("--epochs")
    if steps is not None:
        if epochs is not None:
            conversion.note(f"does nothing: {_TOTAL} says how many steps there are", ("--epochs",))
        total = (
            steps if isinstance(steps, int) else _STEPS
        )  # what else it may be, the check of the schema says
    else:
        total = _STEPS if epochs is None else epochs * epoch
        if epochs is None:
            conversion.note(f"--epochs is left out: {_TOTAL} is {_STEPS}", ())
    conversion.put(_TOTAL, total, ("--epochs",))
    rate = conversion.get("--lr_fusion", default=1e-4)
    conversion.put("train.optim_g", {"type": "AdamW", "lr": rate, "weight_decay": 1e-4})
    conversion.tree.sources["train", "optim_g", "lr"] = ("--lr_fusion",)
    conversion.put(
        "train.scheduler",
        {"type": "CosineAnnealingRestartLR", "periods": [max(total, 1)], "eta_min": min(1e-6, rate)},
    )
    conversion.carry("--lr_swintexco", "objective.lr.swintexco")
    if judged:
        conversion.carry("--weight_gan", "loss.gan.weight")
        conversion.carry(
            "--epoch_train_discriminator", "loss.gan.start_iter", change=lambda given: given * epoch
        )
        conversion.put("network_d", {"type": "ColourDiscriminatorSN"}, ("--weight_gan",))
        conversion.put(
            "train.optim_d", {"type": "Adam", "lr": 1e-4, "betas": [0.5, 0.999]}, ("--weight_gan",)
        )
        conversion.carry("--lr_discriminator", "train.optim_d.lr")
    conversion.carry("--save_freq", "logger.save_checkpoint_freq", change=lambda given: given * epoch)


def _convert_run(conversion: FlagConversion) -> None:
    both = conversion.get("--use_amp", default=False), conversion.get("--no_use_amp", default=False)
    if all(both):
        conversion.problem("contradicts --no_use_amp; give one of the two", ("--use_amp",))
    conversion.put(
        "train.precision", "fp32" if both[1] else "bf16", ("--no_use_amp" if both[1] else "--use_amp",)
    )
    conversion.carry("--max_grad_norm", "train.grad_clip", 1.0)
    conversion.carry("--save_dir", "path.experiments_root")
    name = "--resume"
    state = conversion.get(name)
    if state is not None:
        path = Path(state).expanduser()
        if not path.is_file():
            conversion.problem(f"{state} does not exist", (name,))
        elif path.suffix != ".state":
            conversion.problem(
                f"{state}: a run goes on from training_states/N.state; checkpoints of the seed lack what that "
                "needs (atelier colorize --fusion_ckpt uses their networks)",
                (name,),
            )
        conversion.put("path.resume_state", state, (name,))
    _convert_device(conversion)


def _convert_device(conversion: FlagConversion) -> None:
    name = "--device"
    device = conversion.get(name)
    if device is None:
        return
    kind, colon, number = str(device).partition(":")
    if kind not in ("cpu", "cuda", "auto") or (colon and not (kind == "cuda" and number.isdecimal())):
        conversion.problem(f"given {show(device)}, allowed: cpu, cuda, cuda:N", (name,))
    conversion.put("num_gpu", 0 if kind == "cpu" else 1 if kind == "cuda" else "auto", (name,))
    if number:
        conversion.note(
            f"which GPU is used is set outside: CUDA_VISIBLE_DEVICES={number} atelier train ...", (name,)
        )


def _steps_of_an_epoch(conversion: FlagConversion, asking: Sequence[str]) -> int:
    """ceil(clips / batch), from the data set itself."""
    from pydantic import ValidationError

    from atelier.data.clip_options import TrainClipsOptions

    written = conversion.tree.data["datasets"]["train"]
    flags = " and ".join(asking)
    missing = [str(root) for root in written.get("roots", ()) if not Path(root).expanduser().is_dir()]
    if missing:
        conversion.problem(
            f"counts passes over the data set, so its clips must be counted, but --dataset {', '.join(missing)} is no "
            f"folder here; where the data are elsewhere, say steps instead: leave {flags} out and give {_TOTAL}=N",
            (asking[0],),
        )
        return 1
    try:
        options = TrainClipsOptions.model_validate(written)
    except ValidationError:
        return 1  # the check of the whole run says what is wrong with it
    from atelier.data.clip_counting import count_clips

    try:
        count = count_clips(options)
    except UserError as error:
        conversion.problem(f"the clips of --dataset cannot be counted: {error}", (asking[0],))
        return 1
    batch = options.batch_size_per_gpu
    epoch = -(-count // batch)
    conversion.note(f"an epoch is {count} clips in batches of {batch}: {epoch} steps", (asking[0],))
    return epoch
