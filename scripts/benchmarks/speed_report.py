"""Tables and plot of what `training.py` measured."""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, ScalarFormatter

__all__ = ["draw", "markdown"]

Seen = dict[str, Any]
GOALS = (0.97, 0.98, 0.99, 0.993, 0.995)
TITLES = {
    "original": "the original loop",
    "lightning": "the same in stock Lightning",
    "same network": "this project, same network",
    "same network, own precision": "the same, its own batch and precision",
    "fast": "this project, fast.yaml",
    "accurate": "this project, accurate.yaml",
    "bare loop": "a bare loop over its batches",
    "floor": "the floor: its convolutions and products alone",
    "floor, own precision": "the floor of that batch and precision",
    "floor of fast": "the floor of fast.yaml",
}
FLOORS = {
    "original": "floor",
    "lightning": "floor",
    "same network": "floor",
    "same network, own precision": "floor, own precision",
    "fast": "floor of fast",
}
"""What each contender spends on convolutions and matrix products, at its batch size and precision."""
# Okabe and Ito's colours, told apart by every eye; marker and stroke differ as well.
STYLES = {
    "original": ("#D55E00", "s", "--"),
    "lightning": ("#CC79A7", "^", ":"),
    "same network": ("#0072B2", "o", "-"),
    "fast": ("#009E73", "D", "-"),
    "accurate": ("#E69F00", "v", "-."),
}


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Write median and range, or the one value there is."""
    values = list(values)
    middle = f"{statistics.median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def counted(number: int, name: str) -> str:
    """Write a number of things."""
    return f"{number} {name}" if number == 1 else f"{number} {name}s"


def grouped(seen: list[Seen], key: Callable[[Seen], Any]) -> dict[Any, list[Seen]]:
    """Collect the rounds of each task, in the order in which tasks first came."""
    groups: dict[Any, list[Seen]] = {}
    for each in seen:
        groups.setdefault(key(each), []).append(each)
    return groups


def rows_of(head: str, body: Iterable[str]) -> list[str]:
    """Lay out a Markdown table: the first column to the left, the others to the right."""
    return [head, "|---|" + "---:|" * (head.count("|") - 2), *body, ""]


def throughput(seen: list[Seen]) -> list[str]:
    """Compare images a second with the original loop, which runs first, and seconds with the floor."""
    groups = grouped(seen, lambda each: (each["task"]["contender"], each["task"].get("batch_size", 64)))
    rates = {
        contender: statistics.median(each["images"] / each["seconds"] for each in rounds)
        for (contender, _), rounds in groups.items()
    }
    lines, first = [], next(iter(rates.values()))
    for (contender, size), rounds in groups.items():
        rate, floor = rates[contender], rates.get(FLOORS.get(contender, ""))
        seconds = spread(each["seconds"] for each in rounds)
        ratios = f"{rate / first:.2f} | {f'{floor / rate:.2f}' if floor else ''}"
        memory = statistics.median(each["peak_gb"] for each in rounds)
        lines.append(f"| {TITLES[contender]} | {size} | {seconds} | {rate:,.0f} | {ratios} | {memory:.2f} |")
    rows = rows_of("| one epoch | batch | seconds (range) | images/s | x original | x floor | peak GB |", lines)
    if {"original", "floor"} <= rates.keys():
        most = rates["floor"] / rates["original"]
        rows += [
            f"Convolutions and matrix products alone take {1 / most:.0%} of the original loop's time: on this "
            f"processor, training of this network in float32 at batch 64 can be at most {most:.2f} times as fast.",
            "",
        ]
    return rows


def seconds_to(curve: list[list[float]], goal: float) -> float | None:
    """Return the training seconds at the first look that shows ``goal``, or None."""
    return next((seconds for _, seconds, accuracy in curve if accuracy >= goal), None)


def accuracy(seen: list[Seen]) -> list[str]:
    """Say when each goal was reached, and how long and how good the longest runs were."""
    lines, to_99 = [], dict[str, float]()
    for (contender, _), rounds in grouped(seen, run_of).items():
        cells = []
        for goal in GOALS:
            times = [time for each in rounds if (time := seconds_to(each["curve"], goal)) is not None]
            missed = f", {len(rounds) - len(times)} of {len(rounds)} not" if len(times) < len(rounds) else ""
            cells.append(spread(times, 1) + missed if times else "not reached")
            if goal == 0.99 and not missed:
                to_99.setdefault(contender, statistics.median(times))
        lengths = sorted({each["task"]["epochs"] for each in rounds})
        longest = [each for each in rounds if each["task"]["epochs"] == lengths[-1]]
        last = statistics.median(100 * each["curve"][-1][2] for each in longest)
        total = spread((each["seconds"] for each in longest), 1)
        epochs = " or ".join([*map(str, lengths[:-1]), counted(lengths[-1], "epoch")])
        lines.append(f"| {TITLES[contender]}, {epochs} | {' | '.join(cells)} | {total} | {last:.2f} |")
    goals = " | ".join(f"to {100 * goal:g}%" for goal in GOALS)
    rows = rows_of(f"| training seconds | {goals} | longest run | % at its end |", lines)
    if {"original", "fast"} <= to_99.keys():
        sooner = to_99["original"] / to_99["fast"]
        rows += [f"{TITLES['fast']} reaches 99% {sooner:.1f} times sooner than {TITLES['original']} (medians).", ""]
    return rows


def run_of(each: Seen) -> tuple[str, int | None]:
    """Tell apart what trains differently: at a constant rate a short run is the beginning of a long one."""
    contender = each["task"]["contender"]
    return contender, each["task"]["epochs"] if contender in ("fast", "accurate") else None


def overhead(seen: list[Seen]) -> list[str]:
    """Compare a step under the Trainer with one of the bare loop that ran just before or after it, and the floor."""
    lines = []
    for size, rounds in grouped(seen, lambda each: each["task"]["batch_size"]).items():
        bare, trainer, floor = (
            [1000 * each["seconds"] / each["steps"] for each in rounds if each["task"]["contender"] == contender]
            for contender in ("bare loop", "same network", "floor")
        )
        more = [100 * (one / other - 1) for one, other in zip(trainer, bare, strict=True)]
        shares = f"{statistics.median(more):+.1f}% ({min(more):+.1f} to {max(more):+.1f})"
        lines.append(f"| {size} | {spread(floor) if floor else ''} | {spread(bare)} | {spread(trainer)} | {shares} |")
    head = "| batch | ms a step, floor | bare loop | under the Trainer | Trainer, a pair of runs each |"
    return rows_of(head, lines)


def startup(seen: list[Seen]) -> list[str]:
    """Say how long a user waits for the first step."""
    return [f"From `python scripts/fit.py` to the first step: {spread(each['seconds'] for each in seen)} s.", ""]


def scaling(seen: list[Seen]) -> list[str]:
    """Lay seconds an epoch out by number of images and threads."""
    lines = []
    for (count, threads), rounds in grouped(
        seen, lambda each: (each["task"]["num_images"], each["task"]["threads"])
    ).items():
        cells = [
            spread(each["seconds"] for each in rounds if each["task"]["contender"] == contender)
            for contender in ("original", "same network")
        ]
        lines.append(f"| {count:,} | {threads} | {' | '.join(cells)} |")
    return rows_of("| images | threads | seconds an epoch, the original loop | this project |", lines)


SECTIONS = {
    "throughput": throughput,
    "accuracy": accuracy,
    "overhead": overhead,
    "startup": startup,
    "scaling": scaling,
}


def markdown(about: dict[str, Any], commands: list[str], results: dict[str, list[Seen]]) -> str:
    """Write what was measured, on what, and by which commands."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    waiting = f", OMP_WAIT_POLICY={about['wait_policy']}" if about["wait_policy"] else ""
    lines = [
        f"{about['machine']}, {counted(about['threads'], 'thread')}{waiting}, {versions}; median (and range) of rounds "
        f"in turn, a fresh process each (Trainer and bare loop: eight turns in one), evaluation left out "
        f"({'; '.join(f'`{command}`' for command in commands)}):",
        "",
    ]
    for section, seen in results.items():
        lines += SECTIONS[section](seen) if seen else []
    return "\n".join(lines)


def draw(results: dict[str, list[Seen]], path: Path) -> None:
    """Plot accuracy against training seconds, and seconds an epoch against the number of images, where measured."""
    panels = [
        (draw_curves, results["accuracy"]) if results.get("accuracy") else None,
        (draw_scaling, results["scaling"]) if results.get("scaling") else None,
    ]
    wanted = [panel for panel in panels if panel is not None]
    if not wanted:
        return
    figure = Figure(figsize=(6.2 * len(wanted), 4.4), layout="constrained")
    for axes, (drawer, seen) in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
        drawer(axes, seen)
        axes.grid(alpha=0.3, which="both")
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=120)


def draw_curves(axes: Axes, seen: list[Seen]) -> None:
    """Plot the smallest error so far against training seconds: median and range of the runs of equal length."""
    labelled = set()
    for (contender, _), runs in grouped(seen, lambda each: (each["task"]["contender"], each["task"]["epochs"])).items():
        colour, _, stroke = STYLES[contender]
        curves = [np.array(each["curve"])[:, 1:].T for each in runs]  # seconds, share that was right
        start, end = max(seconds[0] for seconds, _ in curves), min(seconds[-1] for seconds, _ in curves)
        times = np.geomspace(start, end, 200)
        best = [np.minimum.accumulate(100 * (1 - right)) for _, right in curves]
        errors = np.array(
            [
                least[np.searchsorted(seconds, times, side="right") - 1]
                for (seconds, _), least in zip(curves, best, strict=True)
            ]
        )
        label = None if contender in labelled else TITLES[contender]
        axes.plot(times, np.median(errors, axis=0), stroke, color=colour, linewidth=1.5, label=label)
        axes.fill_between(times, errors.min(axis=0), errors.max(axis=0), color=colour, alpha=0.15, linewidth=0)
        labelled.add(contender)
    for goal in GOALS:
        axes.axhline(100 * (1 - goal), color="#777777", linewidth=0.6)
    axes.set(xscale="log", yscale="log", xlabel="seconds of training", ylabel="smallest test error so far (%)")
    for axis, ticks in ((axes.yaxis, (0.7, 1, 2, 3, 5, 10)), (axes.xaxis, (0.3, 1, 3, 10, 30, 100))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())


def draw_scaling(axes: Axes, seen: list[Seen]) -> None:
    """Plot the median seconds an epoch against the number of images, a line for each number of threads."""
    for (contender, threads), runs in grouped(
        seen, lambda each: (each["task"]["contender"], each["task"]["threads"])
    ).items():
        colour, marker, _ = STYLES[contender]
        points = grouped(runs, lambda each: each["task"]["num_images"])
        axes.plot(
            list(points),
            [statistics.median(each["seconds"] for each in rounds) for rounds in points.values()],
            "--" if threads == 1 else "-",
            color=colour,
            marker=marker,
            label=f"{TITLES[contender]}, {counted(threads, 'thread')}",
        )
    axes.set(xscale="log", yscale="log", xlabel="training images", ylabel="seconds an epoch")
