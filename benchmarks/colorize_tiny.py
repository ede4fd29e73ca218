"""What the tiny recipe learns in a minute: the table of every mode, on clips of a photograph that it never saw.

    python benchmarks/colorize_tiny.py
    python benchmarks/colorize_tiny.py --seeds 0 --clips DIR

Trains options/colorize/tiny.yml as it is shipped, once a seed; nothing is chosen by the result. Held out are the clips
of the recipe's own datasets.val (3 clips of 24 frames of 96x96 of the photograph chelsea, frame 0 as exemplar) and 12
further ones. With --clips each folder of frames in DIR is coloured from its first frame, too, and told frame by frame.
Ends with exit code 1 where a seed misses what is claimed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from atelier.colorize import FusionSystem, load_system
from atelier.data.clip_options import ValClipsOptions
from atelier.data.clip_validation import ClipValidation
from atelier.evaluate.films import ROWS, TRUTH
from atelier.metrics.options import METRICS, Metric
from atelier.options.read import load_run_options
from atelier.train.run import train
from atelier.train.validating_clips import film_meters, measure_clip

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "options" / "colorize" / "tiny.yml"
BAMBOO = ROOT.parent / "shared" / "data" / "clips"
SHOWN = ("psnr", "ab_psnr", "ciede2000", "warp_error", "colourfulness", "cdc")
Row = dict[str, float]


def metrics() -> dict[str, Metric]:
    return {"psnr": METRICS.options_class("psnr")(type="psnr").build(0, 3)}


def table(system: FusionSystem, films: ClipValidation) -> dict[str, Row]:
    """Row -> measure -> mean over clips."""
    found = [measure_clip(system, films[place], ROWS, metrics())[0] for place in range(len(films))]
    return {
        row: {key: statistics.fmean(each[row][key] for each in found) for key in found[0][row]}
        for row in (*ROWS, TRUTH)
    }


def claims(rows: dict[str, Row]) -> list[str]:
    """What a trained system must do and does not, one sentence each."""
    psnr = {row: rows[row]["psnr"] for row in ROWS}
    share = rows["fused"]["colourfulness"] / rows[TRUTH]["colourfulness"]
    least = {"average": 0.15, "exemplar": 0.4, "grey": 6.0}
    missed = [
        f"fused is {psnr['fused'] - psnr[row]:+.2f} dB to {row}, claimed {gain:+.2f}"
        for row, gain in least.items()
        if psnr["fused"] < psnr[row] + gain
    ]
    if not 0.6 <= share <= 1.2:
        missed.append(f"colourfulness is {share:.2f} of the truth's")
    if rows["fused"]["warp_error"] > 0.7 * rows["exemplar"]["warp_error"]:
        missed.append("the warp error of fused is above 0.7 of exemplar's")
    return missed


def show(title: str, results: dict[str, dict[str, Row]]) -> None:
    print(f"\n{title}\n\n| mode | measure | {' | '.join(results)} |\n|{'---|' * (2 + len(results))}")
    for row in (*ROWS, TRUTH):
        for key in SHOWN:
            cells = [f"{each[row][key]:.4g}" if key in each[row] else "–" for each in results.values()]
            if any(cell != "–" for cell in cells):
                print(f"| {row} | {key} | {' | '.join(cells)} |")
    gains = [each["fused"]["psnr"] - each["average"]["psnr"] for each in results.values()]
    print(f"| **fused - average** | psnr | {' | '.join(f'{gain:+.2f}' for gain in gains)} |", flush=True)


def show_frames(system: FusionSystem, folder: Path) -> None:
    films = ValClipsOptions(layout="folders", roots=[folder], short_side=192, clip_length=None).open(
        quiet=True
    )
    for place, name in enumerate(films.names):
        batch = films[place]
        meters, _ = film_meters(system, batch, ROWS, metrics())
        frames = {row: meters[row].by_frame() for row in (*ROWS, TRUTH)}
        height, width = batch.L.shape[-2:]
        counted = len(frames["grey"])
        first = batch.L.shape[1] - counted
        print(
            f"\n{name}, {batch.L.shape[1]} frames of {width}x{height}, frame 0 as exemplar: PSNR (dB) of each frame"
        )
        numbers = " | ".join(str(first + t) for t in range(counted))
        print(f"\n| mode | {numbers} | mean | warp error | colourfulness | CDC |")
        print(f"|{'---|' * (counted + 5)}")
        for row in (*ROWS, TRUTH):
            values = meters[row].values()
            psnr = [each["psnr"] for each in frames[row]] if row != TRUTH else []
            cells = (
                [f"{value:.2f}" for value in [*psnr, statistics.fmean(psnr)]]
                if psnr
                else ["–"] * (counted + 1)
            )
            cells += [f"{values[key]:.4g}" for key in ("warp_error", "colourfulness", "cdc")]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--clips", type=Path, default=BAMBOO, help="folder of folders of frames; left out where absent"
    )
    parser.add_argument("--wide", type=int, default=12, help="further held-out clips; 0: none")
    arguments = parser.parse_args()
    recipe = load_run_options(RECIPE)
    held = recipe.datasets.validation["val"]
    assert isinstance(held, ValClipsOptions)
    sets = {"the recipe's 3 held-out clips": held.open(quiet=True)}
    if arguments.wide:
        wide = held.model_copy(update={"seed": 1, "clips": arguments.wide})
        sets[f"{arguments.wide} other held-out clips"] = wide.open(quiet=True)
    torch.manual_seed(0)
    untrained = recipe.network_g.build().eval()
    assert isinstance(untrained, FusionSystem)
    results = {name: {"before": table(untrained, films)} for name, films in sets.items()}
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            began, used = time.perf_counter(), time.process_time()
            run = train(RECIPE, [f"manual_seed={seed}", f"path.experiments_root={folder}/{seed}"], quiet=True)
            wall, own = time.perf_counter() - began, time.process_time() - used
            print(f"seed {seed}: {wall:.0f} s with validation, {own:.0f} s of the main process")
            system = load_system(run.folder / "models" / f"net_g_{run.iteration}.pth").system
            for name, films in sets.items():
                rows = results[name][f"seed {seed}"] = table(system, films)
                missed += [f"seed {seed}, {name}: {each}" for each in claims(rows)]
            if seed == arguments.seeds[0] and arguments.clips.is_dir():
                show_frames(system, arguments.clips)
    for name, columns in results.items():
        show(name, columns)
    print("\n".join(["", *missed]) if missed else "\nevery seed does what is claimed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
