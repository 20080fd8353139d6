"""How well the search and its intervals do where the truth is known.

    python benchmarks/simulate.py [--studies 1000] [--out reports] [--processes 2]
    python benchmarks/simulate.py --likelihood score      # these rows; the others stay

Whole studies are simulated, baselines and stopping included, on the mean curves and with the noise
of shapes.py, some of them recorded by Li et al. (2018). Counted are: how often the
95% interval holds the true d_int90, its bias, and the trials spent, against a fixed log grid with
5 seeds at every d that ends with an interval as narrow. Writes simulation.json and simulation.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices are small; processes are the parallelism
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from coverage_page import page
from shapes import CASES, MODELS, Case, World, gaussian

import difficulty_bench
from difficulty_bench.crossing import Crossing, geometric
from difficulty_bench.estimate import Estimate, estimate
from difficulty_bench.registry import Search, Task
from difficulty_bench.results import Outcome, Request
from difficulty_bench.script import Script
from difficulty_bench.search import Plan

Row = dict[str, Any]
SEEDS = 5
GRIDS = tuple(int(n) for n in geometric(4, 90, 1.2))  # numbers of d on the fixed grid
GRID_STUDIES = 60
LIMIT = 100  # the suite's default max_trials


@dataclass(frozen=True)
class Interval:
    """One crossing of one simulated study, beside the truth (None: no d in the range)."""

    truth: int | None
    d_int90: int | None
    low: int | None
    high: int | None

    @classmethod
    def of(cls, crossing: Crossing | None, truth: int | None) -> Interval:
        assert crossing is not None
        return cls(truth, crossing.d_int90, crossing.ci_low, crossing.ci_high)

    @property
    def side(self) -> int:
        """0 where the interval holds the truth, -1 where the truth is below it, 1 above it."""
        truth = np.inf if self.truth is None else self.truth
        if self.low is not None and truth < self.low:
            return -1
        return int(self.high is not None and truth > self.high)

    @property
    def factor(self) -> float:
        """Square root of high / low: the interval's half-width as a factor; inf where open."""
        return np.sqrt(self.high / self.low) if self.low and self.high else np.inf


@dataclass(frozen=True)
class Study:
    local: Interval
    global_: Interval
    trials: int
    baselines: int
    capped: bool


def simulated_task(case: Case, world: World) -> Task:
    d_min, d_max = case.bracket
    search = Search(d_min=d_min, d_max=d_max, model=case.model, precision=case.precision)
    return Task.model_construct(
        name=case.name, floor=0.0, threshold_global=world.threshold, search=search,
        projection="hashed", lr_rule="matched", tuning=None, baseline_seeds=SEEDS,
    )  # fmt: skip


def outcome(world: World, request: Request, rng: np.random.Generator) -> Outcome:
    if request.role == "baseline":
        return Outcome(gaussian(world.baseline_sd)(world.baseline, rng))
    return Outcome(world.trial(float(world.mean(np.array([request.d]))[0]), rng))


def adaptive_study(number: int, seed: int) -> Study:
    case = CASES[number]
    rng = np.random.default_rng([seed, case.number])
    world = case.draw(rng)
    task = simulated_task(case, world)
    outcomes, capped = play(Plan().script(task, case.D), world, rng, LIMIT)
    return _study(case, world, task, outcomes, capped)


def play(
    script: Script[str], world: World, rng: np.random.Generator, limit: int | None = None
) -> tuple[dict[Request, Outcome], bool]:
    """Answer a script until it ends, or until `limit` trainings (then True)."""
    outcomes = dict[Request, Outcome]()
    try:
        requests = next(script)
        while True:
            room = len(requests) if limit is None else limit - len(outcomes)
            answers = {request: outcome(world, request, rng) for request in requests[:room]}
            outcomes.update(answers)
            if room < len(requests):
                return outcomes, True
            requests = script.send(answers)
    except StopIteration:
        return outcomes, False


def grid_study(number: int, points: int, baselines: int, seed: int) -> Study:
    """A fixed log grid over the same range: SEEDS seeds at every d, the same estimator."""
    case = CASES[number]
    rng = np.random.default_rng([seed, case.number, points])
    world = case.draw(rng)
    task = simulated_task(case, world)
    dims = np.unique(np.geomspace(*case.bracket, points).round().astype(int)).tolist()
    script = Plan(grid=dims, seeds=SEEDS).script(task, case.D)
    outcomes, _ = play(script, world, rng)
    for extra in range(SEEDS, baselines):
        request = Request("baseline", 0, extra, 1.0)
        outcomes[request] = outcome(world, request, rng)
    return _study(case, world, task, outcomes, False)


def _study(
    case: Case, world: World, task: Task, outcomes: dict[Request, Outcome], capped: bool
) -> Study:
    found: Estimate = estimate(task, case.D, outcomes)
    roles = [request.role for request in outcomes]
    return Study(
        Interval.of(found.local, world.truth(0.9 * world.baseline, case.bracket[1])),
        Interval.of(found.global_, world.truth(world.threshold, case.bracket[1])),
        roles.count("trial"),
        roles.count("baseline"),
        capped,
    )


def summarise(intervals: list[Interval]) -> dict[str, Any]:
    """Coverage with its binomial standard error, misses on each side, bias and width."""
    sides = np.array([interval.side for interval in intervals])
    covered = float(np.mean(sides == 0))
    errors = [np.log(i.d_int90 / i.truth) for i in intervals if i.d_int90 and i.truth]
    factor = float(np.median([interval.factor for interval in intervals]))
    return {
        "coverage": round(covered, 4),
        "coverage_se": round(float(np.sqrt(covered * (1 - covered) / len(sides))), 4),
        "truth_below": round(float(np.mean(sides < 0)), 4),
        "truth_above": round(float(np.mean(sides > 0)), 4),
        "bias": round(float(np.expm1(np.mean(errors))), 4) if errors else None,
        "median_factor": round(factor, 4) if np.isfinite(factor) else None,
        "censored": round(float(np.mean([i.d_int90 is None for i in intervals])), 4),
    }


def matching_grid(pool: Any, case: Case, studies: list[Study]) -> int | None:
    """Trials of the smallest fixed grid whose median intervals, local and global, are as narrow."""
    wanted = [_factor(studies, "local"), _factor(studies, "global_")]
    baselines = round(float(np.mean([study.baselines for study in studies])))
    low, high, best = 0, len(GRIDS), None
    while low < high:  # more points, narrower intervals
        middle = (low + high) // 2
        run = partial(grid_study, case.number, GRIDS[middle], baselines)
        grid = pool.map(run, range(GRID_STUDIES), chunksize=5)
        got = [_factor(grid, "local"), _factor(grid, "global_")]
        if all(g <= w for g, w in zip(got, wanted, strict=True)):
            high, best = middle, max(study.trials for study in grid)
        else:
            low = middle + 1
    return best


def _factor(studies: list[Study], target: str) -> float:
    return float(np.median([getattr(study, target).factor for study in studies]))


def measure(pool: Any, case: Case, n: int) -> dict[str, Any]:
    start = time.perf_counter()
    studies = pool.map(partial(adaptive_study, case.number), range(n), chunksize=5)
    trials = [study.trials for study in studies]
    grid = matching_grid(pool, case, studies)
    median = float(np.median(trials))
    return {
        "shape": case.name,
        "likelihood": case.model,
        "studies": n,
        "precision": case.precision,
        "local": summarise([study.local for study in studies]),
        "global": summarise([study.global_ for study in studies]),
        "trials_median": median,
        "trials_p90": float(np.quantile(trials, 0.9)),
        "baselines_mean": round(float(np.mean([study.baselines for study in studies])), 2),
        "reached_max_trials": round(float(np.mean([study.capped for study in studies])), 4),
        "grid_trials": grid,
        "trials_of_grid": grid and round(median / grid, 3),
        "wall_s": round(time.perf_counter() - start, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--likelihood", choices=MODELS, help="only these rows")
    parser.add_argument("--out", type=Path, default=Path("reports"))
    parser.add_argument("--page", action="store_true", help="only rewrite the page from the JSON")
    given = parser.parse_args()
    file = given.out / "simulation.json"
    if not given.page:
        given.out.mkdir(parents=True, exist_ok=True)
        run(
            given.studies, given.processes, [given.likelihood] if given.likelihood else MODELS, file
        )
    rows = json.loads(file.read_text())["rows"]
    file.with_suffix(".md").write_text(page(rows, largest_grid=SEEDS * GRIDS[-1]))


def run(studies: int, processes: int, likelihoods: Collection[str], file: Path) -> None:
    """Measure the cases of `likelihoods`, and write `file` after each; the other rows stay.

    What an interrupted run has measured is kept where the code that it hangs on is the same.
    """
    about = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "processes": processes,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "code": code_hash(),
    }
    found: list[Row] = json.loads(file.read_text())["rows"] if file.exists() else []
    rows = {(row["shape"], row["likelihood"]): row for row in found}
    with Pool(processes) as pool:
        for case in CASES.values():
            row = rows.get((case.name, case.model), {})
            same = (row.get("studies"), row.get("code")) == (studies, about["code"])
            if case.model in likelihoods and not same:
                row = {**measure(pool, case, studies), **about}
                rows[case.name, case.model] = row
                print(json.dumps(row), flush=True)
                ordered = [rows[key] for c in CASES.values() if (key := (c.name, c.model)) in rows]
                file.write_text(json.dumps({"rows": ordered}, indent=1) + "\n")


def code_hash() -> str:
    """Of all that decides a row: the pure modules of the suite and these two files."""
    names = (
        "baseline", "belief", "crossing", "curve", "design", "estimate", "psychometric", "script",
        "registry", "results", "search", "stages", "tuning",
    )  # fmt: skip
    package = Path(difficulty_bench.__file__).parent
    here = Path(__file__).parent
    files = [package / f"{name}.py" for name in names]
    files += [here / "recorded_curves.json", *sorted(here.glob("s[hi]*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


if __name__ == "__main__":
    main()
