from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difficulty_bench import curve, psychometric
from difficulty_bench.belief import PassBelief
from difficulty_bench.crossing import ABOVE, BELOW, Crossing
from difficulty_bench.design import (
    NATIVE,
    PassProspect,
    ScoreProspect,
    choose,
    crossing_mass,
    relative_cost,
)
from difficulty_bench.errors import StudyError, UsageError
from difficulty_bench.estimate import Target, estimate
from difficulty_bench.registry import Task
from difficulty_bench.results import Outcome, Request
from difficulty_bench.search import Stop, unmet
from difficulty_bench.stages import Stages, tidy
from difficulty_bench.tuning import ChosenLr, chosen_lr, relevant

from .made_up import (
    D,
    lacking,
    learner,
    made_up_task,
    next_round,
    play_study,
    power_law,
    run_study,
    stop_reason,
)

TASK = made_up_task()
PASS = made_up_task(search={"d_min": 1, "d_max": 100, "model": "pass", "precision": 1.01})
TUNED = made_up_task(
    lr_rule="tuned", tuning={"grid": (1.0, 4.0, 16.0, 64.0), "d": (100, 400), "seeds": 2}
)


def toy(request: Request) -> Outcome:
    """Performances recorded for the toy problem: 10 constraints, so 10 dimensions."""
    near = {7: 3e-9, 8: 0.048, 9: 0.165, 10: 0.99977, 11: 0.99946}
    if request.d in near:
        return Outcome(near[request.d])
    return Outcome(1.0 if request.d == NATIVE or request.d > 11 else 0.0)


def of(task: Task, d: int, seed: int) -> Request:
    """The trial as a search asks for it."""
    return replace(next_round(task, D, {}, grid=[d], seeds=1)[-1], seed=seed)


def tuned_learner(best_native: float, best_subspace: float):
    """A score that falls off with the distance of lr_scale from the best one."""
    inner = learner(power_law(300), 0.005)

    def learn(request: Request) -> Outcome:
        subspace = best_subspace * np.sqrt(D / max(1, request.d))
        best = subspace if request.d else best_native
        loss = 0.05 * abs(np.log(request.lr_scale / best))
        return replace(inner(request), score=inner(request).score - float(loss))

    return learn


class TestToy:
    def test_exactly_ten(self):
        outcomes = run_study(PASS, toy)
        found = estimate(PASS, D, outcomes)
        for crossing in (found.local, found.global_):
            assert (crossing.ci_low, crossing.d_int90, crossing.ci_high) == (10, 10, 10)
        seeds = Counter(r.d for r in outcomes if r.role == "trial")
        assert min(seeds[9], seeds[10]) >= 4
        assert len(outcomes) <= 40


class TestReplay:
    @given(kills=st.lists(st.integers(0, 40), max_size=6), seed=st.integers(0, 5))
    @settings(max_examples=8, deadline=None)
    def test_a_study_killed_anywhere_ends_as_an_uninterrupted_one(self, kills, seed):
        """Each kill loses some of a round, whose finished trials stay in the store."""
        learn = learner(power_law(300), 0.02, seed=seed)
        whole = play_study(TASK, learn)
        stored: dict[Request, Outcome] = {}
        while requests := next_round(TASK, D, stored):
            survive = kills.pop() % (len(requests) + 1) if kills else len(requests)
            for request in sorted(requests, key=lambda r: (r.seed, -r.d))[:survive]:
                stored[request] = learn(request)
        assert stored == whole
        assert estimate(TASK, D, stored) == estimate(TASK, D, whole)

    @given(cap=st.integers(1, 40))
    @settings(max_examples=8, deadline=None)
    def test_max_trials_cuts_the_sequence_without_changing_it(self, cap):
        learn = learner(power_law(300), 0.02)
        whole = list(run_study(TASK, learn, max_trials=40))
        part = list(run_study(TASK, learn, max_trials=cap))
        assert part == whole[:cap]
        resumed = {request: learn(request) for request in part}
        while requests := next_round(TASK, D, resumed, max_trials=40):
            resumed |= {request: learn(request) for request in requests}
        assert set(resumed) == set(whole)

    @pytest.mark.parametrize("limit", [None, 40])
    def test_foreign_results_do_not_steer_and_a_row_they_widen_is_searched_further(self, limit):
        """A script's requests hang on its own outcomes alone; the end hangs on all there are."""
        learn = learner(power_law(300))
        own = play_study(TASK, learn)
        seeds = {1: Outcome(0.93), 4: Outcome(0.85)}
        stored = extra = {of(TASK, d, seed): seeds[seed] for d in (250, 330) for seed in seeds}
        asked: list[Request] = []
        while requests := next_round(TASK, D, stored, max_trials=limit):
            assert not set(requests) & set(stored)
            asked += requests
            stored = stored | {request: learn(request) for request in requests}
        expected = [request for request in own if request not in extra]
        assert set(asked[: len(expected)]) == set(expected)
        assert len(asked) > len(expected)
        if limit is None:
            assert unmet(TASK, D, stored) is None
            assert not stop_reason(TASK, D, stored).cut_short
        else:
            assert len(stored) == limit
            assert stop_reason(TASK, D, stored, max_trials=limit).cut_short

    @pytest.mark.parametrize("model", ["score", "pass"])
    @pytest.mark.parametrize(
        ("bounds", "foreign"),
        [
            ({"d_max": 400}, [800]),
            ({"d_max": 400}, [500, 700]),
            ({"d_max": 400}, [600, 2000]),
            ({"d_min": 1000}, [300]),
        ],
    )
    def test_a_search_that_has_ended_goes_on_where_trials_lie_out_of_its_range(
        self, bounds, foreign, model
    ):
        search = {**bounds, "model": model, "max_trials": 100}
        task, learn = made_up_task(threshold_global=None, search=search), learner(power_law(600))
        stored = run_study(task, learn)
        done = len(stored)
        assert not stop_reason(task, D, stored).cut_short
        stored |= play_study(task, learn, grid=foreign, seeds=2)
        first, last = min(*bounds.values(), *foreign), max(*bounds.values(), *foreign)
        while requests := next_round(task, D, stored):
            assert all(first <= request.d <= last for request in requests if request.d)
            stored |= {request: learn(request) for request in requests}
        assert done < len(stored) < 100
        assert unmet(task, D, stored) is None
        assert 500 < estimate(task, D, stored).local.d_int90 < 700

    def test_trials_from_elsewhere_that_satisfy_the_rule_end_the_search(self):
        """Those of a grid, or of an earlier version of the search: a published number stays."""
        learn = learner(power_law(300), 0.003)
        stored = play_study(TASK, learn, grid=[100, 250, 290, 350, 1000], seeds=5)
        stored |= play_study(TASK, learn, grid=[110, 130, 150, 170], seeds=5)
        asked = {r: learn(r) for r in next_round(TASK, D, {})}
        assert not set(asked) - set(stored)  # the search asked for its baseline only
        found = estimate(TASK, D, stored)
        assert max(*found.local.factors(), *found.global_.factors()) < TASK.search.precision
        assert next_round(TASK, D, stored) == []
        ended = "local within a factor 1.25; global within a factor 1.25"
        assert stop_reason(TASK, D, stored) == Stop(ended)
        assert lacking(TASK, D, stored) is None
        assert next_round(TASK, D, stored, grid=[20], seeds=1) == [
            Request("trial", 20, 0, float(f"{(D / 20) ** 0.5:.6g}"))
        ]

    def test_the_first_round_depends_on_nothing_and_rounds_have_the_batch_size(self):
        first = next_round(TASK, D, {})
        assert [r.role for r in first] == ["baseline"] * 4
        second = next_round(TASK, D, {r: Outcome(1.0) for r in first})
        assert [r.role for r in second] == ["baseline"] + ["trial"] * 3

    def test_no_request_is_asked_twice_and_seeds_count_from_zero(self):
        outcomes = run_study(TASK, learner(power_law(300), 0.02))
        for d, n in Counter(r.d for r in outcomes).items():
            assert sorted(r.seed for r in outcomes if r.d == d) == list(range(n))

    @pytest.mark.parametrize("model", ["score", "pass"])
    def test_a_replay_fits_a_few_models_a_round(self, model):
        """A hundred trials then take .3 s on an idle core."""
        task = made_up_task(search={"precision": 1.02, "model": model})
        outcomes = play_study(task, learner(power_law(300), 0.03))
        assert len(outcomes) == 100
        curve.fit.cache_clear()
        psychometric.fit.cache_clear()
        assert next_round(task, D, outcomes) == []
        fits = curve.fit.cache_info().misses + psychometric.fit.cache_info().misses
        rounds = len(outcomes) / task.search.batch
        assert 0 < fits <= 7 * rounds  # two thresholds, under `pass` with three rates of lapses


class TestStopping:
    @pytest.mark.parametrize("precision", [1.1, 1.25, 1.5])
    def test_precision_and_seeds_near_each_crossing(self, precision):
        task = made_up_task(search={"precision": precision})
        outcomes = play_study(task, learner(power_law(300), 0.01))
        found = estimate(task, D, outcomes)
        for crossing in (found.local, found.global_):
            assert max(crossing.factors()) <= precision
            d = crossing.d_int90
            near = [r for r in outcomes if r.role == "trial" and d / 1.3 <= r.d <= d * 1.3]
            assert len(near) >= task.search.seeds
        assert len(outcomes) < 100
        assert "within a factor" in stop_reason(task, D, outcomes).reason

    def test_an_interval_that_is_open_below_the_range_is_not_searched_for_ever(self):
        """The crossing is at d_min or just below: no seed of d_min says how far."""
        task = made_up_task(threshold_global=None, search={"d_min": 300, "seeds": 3})
        learn = learner(power_law(305), 0.003, seed=1)
        outcomes = play_study(task, learn)
        found = estimate(task, D, outcomes).local
        assert (found.censored, found.ci_low) == (None, None)
        assert len(outcomes) < 60
        ended = "local within a factor 1.25, open below d_min = 300"
        assert stop_reason(task, D, outcomes) == Stop(ended)

    def test_it_is_said_what_is_lacking(self):
        learn = learner(power_law(300))
        assert lacking(TUNED, D, {}) == "pilots of the learning rate are missing"
        assert lacking(TASK, D, {}) == "baseline has 0 of 5 native trials"
        assert lacking(TASK, D, {}, grid=[300]) == "trials of the grid are missing"
        natives = {r: learn(r) for r in [Request("baseline", 0, seed) for seed in range(5)]}
        assert (
            lacking(TASK, D, natives) == "local has an open interval; global has an open interval"
        )
        stored = play_study(TASK, learn)
        found = estimate(TASK, D, stored)
        factors = [max(c.factors()) for c in (found.local, found.global_)]
        wide = [f"within a factor {factor:.4g}, wanted 1.01" for factor in factors]
        said = lacking(TASK, D, stored, precision=1.01)
        assert said == f"local {wide[0]}; global {wide[1]}"
        assert "trials within a factor 1.3" in str(lacking(TASK, D, stored, seeds=50))
        assert lacking(TASK, D, stored) is None
        never = made_up_task(threshold_global=None)
        stored = play_study(never, learner(lambda d: 0.5))
        less = {r: o for r, o in stored.items() if (r.d, r.seed) != (40_000, 2)}
        assert lacking(never, D, less) == "local needs 1 more at d = 40000"

    def test_a_grid_is_all_of_it(self):
        """Its size was said; `max_trials` of the task bounds what a search may find it needs."""
        task = made_up_task(search={"max_trials": 10})
        asked = next_round(task, D, {}, grid=[10, 20, 30], seeds=5)
        assert len(asked) == 15 + task.baseline_seeds
        assert len(next_round(task, D, {}, grid=[10, 20, 30], seeds=5, max_trials=7)) == 7

    @pytest.mark.parametrize("model", ["score", "pass"])
    def test_never_solved_is_cheap_and_censored(self, model):
        task = made_up_task(threshold_global=None, search={"model": model})
        outcomes = play_study(task, learner(lambda d: 0.5))
        found = estimate(task, D, outcomes)
        assert found.local.censored == ABOVE
        assert found.global_ is None
        assert sum(r.d == 40_000 for r in outcomes) == 3
        assert len(outcomes) <= 15
        assert stop_reason(task, D, outcomes) == Stop("local > d_max")

    @pytest.mark.parametrize("model", ["score", "pass"])
    def test_always_solved_is_cheap_and_censored(self, model):
        task = made_up_task(search={"model": model})
        outcomes = play_study(task, learner(lambda d: 0.98))
        found = estimate(task, D, outcomes)
        assert found.local.censored == found.global_.censored == BELOW
        assert len(outcomes) <= 15

    def test_a_global_threshold_beyond_native_training_costs_two_trials(self):
        plain = made_up_task(threshold_global=None)
        beyond = made_up_task(threshold_global=1.5)
        learn = learner(power_law(300))
        outcomes = play_study(beyond, learn)
        assert estimate(beyond, D, outcomes).global_.censored == ABOVE
        assert sum(r.d == 40_000 for r in outcomes) == 2
        assert len(outcomes) <= len(play_study(plain, learn)) + 4

    def test_max_trials_says_so(self):
        learn = learner(power_law(300))
        outcomes = run_study(TASK, learn, max_trials=10)
        assert len(outcomes) == 10
        stop = stop_reason(TASK, D, outcomes, max_trials=10)
        assert stop.cut_short
        assert "max_trials = 10" in stop.reason
        assert stop_reason(TASK, D, outcomes) is None

    def test_failures_near_the_crossing_do_not_stop_the_search(self):
        sound = learner(power_law(300))

        def learn(request: Request) -> Outcome:
            broken = request.role == "trial" and (request.d // 10 + request.seed) % 6 == 0
            return Outcome(None) if broken else sound(request)

        outcomes = play_study(TASK, learn)
        found = estimate(TASK, D, outcomes)
        assert any(o.score is None for o in outcomes.values())
        assert 200 < found.local.d_int90 < 450

    def test_a_noisy_baseline_gets_more_seeds(self):
        def learn(request: Request) -> Outcome:
            sd = 0.06 if request.role == "baseline" else 0.005
            return learner(power_law(300), sd)(request)

        outcomes = play_study(TASK, learn)
        assert sum(r.role == "baseline" for r in outcomes) > 10


class TestCoverage:
    """Small simulated studies; the full one is benchmarks/simulate.py."""

    @pytest.mark.parametrize(
        ("model", "exponent", "sd", "n"), [("score", 0.85, 0.01, 100), ("pass", 2.0, 0.03, 60)]
    )
    def test_the_interval_holds_the_truth(self, model, exponent, sd, n):
        task = made_up_task(search={"model": model, "precision": 1.4})
        missed = 0
        for seed in range(n):
            d50 = float(np.exp(np.random.default_rng([seed, 7]).uniform(*np.log([50, 5000]))))
            outcomes = play_study(task, learner(power_law(d50, exponent), sd, seed=seed))
            crossing = estimate(task, D, outcomes).local
            low, high = crossing.ci_low or 0, crossing.ci_high or np.inf
            missed += not low <= np.ceil(d50) <= high
        assert missed <= 0.05 * n + 3 * np.sqrt(0.05 * 0.95 * n)  # binomial, three sigma


class TestGrid:
    def test_exactly_these_d(self):
        outcomes = play_study(TASK, learner(power_law(300)), grid=[1000, 100, 300], seeds=3)
        trials = Counter(r.d for r in outcomes if r.role == "trial")
        assert trials == {100: 3, 300: 3, 1000: 3}
        assert sum(r.role == "baseline" for r in outcomes) == 5
        ended = stop_reason(TASK, D, outcomes, grid=[100, 300, 1000], seeds=3)
        assert ended == Stop("the grid has all its trials")

    def test_shards_train_each_trial_once(self):
        learn, grid = learner(power_law(300)), {"grid": [100, 300, 1000], "seeds": 2}
        whole = play_study(TASK, learn, **grid)
        shards = [play_study(TASK, learn, **grid, shard=(part, 3)) for part in (1, 2, 3)]
        assert sorted(r for shard in shards for r in shard) == sorted(whole)
        assert lacking(TASK, D, whole, **grid) is None
        assert next_round(TASK, D, whole, **grid, shard=(1, 3)) == []

    def test_the_first_shard_has_the_pilots_that_the_others_need(self):
        """Their own might choose other step sizes, hence other trials."""
        learn, grid = tuned_learner(4.0, 4.0), {"grid": [100, 300, 1000], "seeds": 2}
        first = run_study(TUNED, learn, **grid, shard=(1, 3))
        pilots = {r: o for r, o in first.items() if r.role == "pilot"}
        assert len(pilots) == 18
        with pytest.raises(UsageError, match="pilots of the learning rate are missing here"):
            next_round(TUNED, D, {}, **grid, shard=(2, 3))
        second = next_round(TUNED, D, pilots, **grid, shard=(2, 3))
        third = next_round(TUNED, D, pilots, **grid, shard=(3, 3))
        assert sorted([*first, *second, *third]) == sorted(run_study(TUNED, learn, **grid))

    def test_a_shard_says_what_it_is(self):
        grid = {"grid": [100], "seeds": 1}
        ended = stop_reason(TASK, D, {}, **grid, shard=(7, 7))  # 6 trials
        assert ended == Stop("shard 7 of 7 of the grid has all its trials")
        said = lacking(TASK, D, {}, **grid, shard=(2, 7))
        assert said == "trials of shard 2 of 7 of the grid are missing"

    def test_no_trial_waits_for_another(self):
        requests = next_round(TASK, D, {}, grid=[100, 300], seeds=2)
        assert [r.d for r in requests] == [0, 0, 0, 0, 0, 100, 300, 100, 300]

    def test_a_later_search_reuses_its_baselines(self):
        learn = learner(power_law(300))
        outcomes = play_study(TASK, learn, grid=[300], seeds=1)
        assert all(r.role == "trial" for r in next_round(TASK, D, outcomes))


class TestLearningRates:
    def test_rules(self):
        for rule, scale in (("paper", 1.0), ("matched", float(f"{(D / 100) ** 0.5:.6g}"))):
            task = made_up_task(lr_rule=rule)
            outcomes = play_study(task, learner(power_law(300)), grid=[100], seeds=1)
            scales = {r.role: r.lr_scale for r in outcomes}
            assert scales == {"baseline": 1.0, "trial": scale}

    def test_pilots_come_first_and_the_best_multipliers_win(self):
        outcomes = play_study(TUNED, tuned_learner(4.0, 16.0))
        n = sum(r.role == "pilot" for r in outcomes)
        assert [r.role for r in outcomes][:n] == ["pilot"] * n
        assert n == 4 * 3 + 2 * 3  # every multiplier with seed 0, the better half with seed 1
        chosen = chosen_lr(TUNED, D, outcomes)
        assert (chosen.native, chosen.subspace) == (4.0, 16.0)
        assert (chosen.native_pilots, chosen.subspace_pilots) == (4 + 2, 2 * (4 + 2))
        assert not chosen.native_at_edge
        assert {r.lr_scale for r in outcomes if r.role == "baseline"} == {4.0}
        assert all(
            r.lr_scale == pytest.approx(16.0 * (D / r.d) ** 0.5, rel=1e-5)
            for r in outcomes
            if r.role == "trial"
        )
        found = estimate(TUNED, D, outcomes)
        assert found.local.ci_low <= 300 <= found.local.ci_high

    def test_a_best_multiplier_at_the_edge_is_reported(self):
        chosen = chosen_lr(TUNED, D, run_study(TUNED, tuned_learner(1.0, 64.0), max_trials=18))
        assert chosen.native_at_edge
        assert chosen.subspace_at_edge

    def test_failed_pilots_count_as_worst(self):
        sound = tuned_learner(4.0, 16.0)

        def learn(request: Request) -> Outcome:
            diverged = request.role == "pilot" and request.d == 400 and request.lr_scale > 150
            return Outcome(None) if diverged else sound(request)

        assert chosen_lr(TUNED, D, run_study(TUNED, learn, max_trials=18)).subspace == 4.0

    def test_of_equally_good_multipliers_the_smaller_is_taken(self):
        chosen = chosen_lr(TUNED, D, run_study(TUNED, lambda r: Outcome(0.5), max_trials=18))
        assert (chosen.native, chosen.subspace) == (1.0, 1.0)

    def test_each_kind_has_an_edge_of_its_own(self):
        chosen = chosen_lr(TUNED, D, run_study(TUNED, tuned_learner(4.0, 64.0), max_trials=18))
        assert (chosen.native_at_edge, chosen.subspace_at_edge) == (False, True)

    def test_the_better_half_goes_on_and_two_until_the_last_seed(self):
        tuning = {"grid": (1.0, 2.0, 4.0, 8.0, 16.0), "d": (100,), "seeds": 4}
        task = made_up_task(lr_rule="tuned", tuning=tuning)
        outcomes = play_study(task, tuned_learner(4.0, 4.0), grid=[100], seeds=1)
        seeds = Counter(r.seed for r in outcomes if r.role == "pilot" and r.d)
        assert seeds == {0: 5, 1: 3, 2: 2, 3: 2}

    def test_native_training_may_have_multipliers_of_its_own(self):
        tuning = {"grid": (1.0, 4.0, 16.0), "native": (0.5, 2.0), "d": (100,), "seeds": 1}
        task = made_up_task(lr_rule="tuned", tuning=tuning)
        outcomes = play_study(task, tuned_learner(2.0, 4.0), grid=[100], seeds=1)
        pilots = {(r.d, r.lr_scale) for r in outcomes if r.role == "pilot"}
        assert {scale for d, scale in pilots if d == 0} == {0.5, 2.0}
        chosen = chosen_lr(task, D, outcomes)
        assert (chosen.native, chosen.subspace) == (2.0, 4.0)
        assert (chosen.native_at_edge, chosen.subspace_at_edge) == (True, False)
        assert (chosen.native_pilots, chosen.subspace_pilots) == (2, 3)

    def test_a_single_multiplier_is_taken_without_pilots(self):
        tuning = {"grid": (4.0,), "native": (1.0,), "d": (100,), "seeds": 2}
        task = made_up_task(lr_rule="tuned", tuning=tuning)
        assert chosen_lr(task, D, {}) == ChosenLr(1.0, 4.0)
        *natives, trial = next_round(task, D, {}, grid=[100], seeds=1)
        assert {(r.role, r.lr_scale) for r in natives} == {("baseline", 1.0)}
        assert trial.lr_scale == pytest.approx(4.0 * math.sqrt(D / 100), rel=1e-5)

    def test_pilots_of_another_grid_are_left_out(self):
        outcomes = play_study(TUNED, tuned_learner(4.0, 16.0))
        foreign = {
            Request("pilot", 0, 0, 7.5): Outcome(9.0),
            Request("pilot", 100, 7, 4.0): Outcome(9.0),
        }
        assert relevant(TUNED, D, outcomes | foreign) == relevant(TUNED, D, outcomes) == outcomes

    def test_pilots_that_all_fail_in_the_subspace_are_an_error(self):
        with pytest.raises(StudyError, match="all 12 subspace pilots failed"):
            play_study(TUNED, lambda r: Outcome(None) if r.d else Outcome(1.0))

    def test_all_failed_is_an_error(self):
        with pytest.raises(StudyError, match="native pilots failed"):
            play_study(TUNED, lambda request: Outcome(None))

    def test_pilots_never_enter_the_estimate(self):
        outcomes = play_study(TUNED, tuned_learner(4.0, 16.0))
        shifted = {
            r: replace(o, score=o.score + 0.001) if r.role == "pilot" else o
            for r, o in outcomes.items()
        }
        assert estimate(TUNED, D, shifted) == estimate(TUNED, D, outcomes)


class TestStages:
    def test_a_threshold_within_the_baselines_error_is_searched_for(self):
        """Native seeds that spread by .05 do not rule out one half a standard error above."""
        outcomes = {
            Request("baseline", 0, seed): Outcome(score)
            for seed, score in enumerate((0.75, 0.8, 0.85, 0.75, 0.85))
        }
        for above, hopeful in ((0.01, True), (0.2, False)):
            task = made_up_task(threshold_global=0.8 + above)
            stages = Stages(task, D, ChosenLr())
            stages.outcomes.update(outcomes)
            crossing = Crossing(0.8 + above)
            assert stages._hopeful(Target(0.8 + above, None, crossing)) is hopeful

    @pytest.mark.parametrize("best", [0.99, 1.01])
    def test_a_threshold_that_a_subspace_has_reached_is_searched_for(self, best):
        """Native training ends below it, but the learner of the subspaces is the better one."""
        task = made_up_task(threshold_global=1.0, search={"d_min": 1, "d_max": 100})
        outcomes = {Request("baseline", 0, seed): Outcome(0.8) for seed in range(5)}
        scores = {1: 0.2, 2: 0.75, 4: 0.75, 30: best, 100: best}  # the local threshold is .72
        outcomes |= {Request("trial", d, 0): Outcome(score) for d, score in scores.items()}
        stages = Stages.of(task, D, ChosenLr(), outcomes)
        assert any(4 < d < 30 for d in stages.bracket()) is (best >= 1.0)


class TestDesign:
    def test_cost_steers_to_smaller_d(self):
        class Flat:
            def gain(self):
                return np.ones(4)

            def add(self, index):
                pass

        d = np.array([10, 100, 1000])
        cost = np.append(relative_cost("dense", d), 2.0)
        assert choose([Flat()], d, cost, 1) == [10]
        assert relative_cost("hashed", d).tolist() == [1.0] * 3

    def test_costs_are_those_of_the_page(self):
        """docs/estimate.md: 1 + d / 58 for stored or drawn matrices, 1 + d / 4300 for sparse."""
        d = np.array([58, 4300])
        for name in ("dense", "gaussian", "rademacher"):
            assert relative_cost(name, d).tolist() == pytest.approx([2, 1 + 4300 / 58])
        assert relative_cost("sparse", d).tolist() == pytest.approx([1 + 58 / 4300, 2])

    def test_a_batch_is_chosen_greedily_and_native_seeds_are_candidates(self):
        class Halving:
            left = np.array([1.0, 3.0, 2.0])  # d = 10, d = 100, native

            def gain(self):
                return self.left

            def add(self, index):
                self.left = np.where(np.arange(3) == index, self.left / 2, self.left)

        cost = np.array([1.0, 2.0, 1.0])
        one, other = Halving(), Halving()
        assert choose([one, other], np.array([10, 100]), cost, 4) == [NATIVE, 100, 10, NATIVE]
        assert one.left.tolist() == other.left.tolist() == [0.5, 1.5, 0.5]

    def test_the_gain_of_a_score_is_the_information_about_the_crossing(self):
        """1/2 log of the variance of score - threshold where it crosses, before and after."""
        belief: Any = SimpleNamespace(
            curve=SimpleNamespace(
                covariance=lambda x: np.array([[0.04, 0.02], [0.02, 0.09]]),
                spread=lambda x: np.array([0.1, 0.2]),
            ),
            above=lambda d: np.array([1.0, 1.0]),  # surely at the first candidate
            threshold=SimpleNamespace(variance=0.01),
        )
        found = ScoreProspect(belief, np.array([10, 20]), 4)

        def nats(before: float, *after: float) -> list[float]:
            return [0.5 * float(np.log(before / x)) for x in after]

        afterwards = (0.05 - 0.04**2 / 0.05, 0.05 - 0.02**2 / 0.13, 0.04 + 0.01 * 4 / 5)
        np.testing.assert_allclose(found.gain(), nats(0.05, *afterwards))
        found.add(2)  # a native seed
        np.testing.assert_allclose(found.gain()[2], nats(0.048, 0.04 + 0.01 * 4 / 6)[0])
        found.add(0)
        np.testing.assert_allclose(found.cov[0], [0.008, 0.02 - 0.04 * 0.02 / 0.05])
        assert found.cov[1, 1] == pytest.approx(0.09 - 0.02**2 / 0.05)

    def test_the_gain_of_a_bit_is_its_mutual_information_with_the_crossing(self):
        parts = tuple(
            psychometric.fit((10, 30, 90), k, (4, 4, 4), 1, 1000) for k in ((0, 1, 4), (0, 3, 4))
        )
        d = np.array([3, 25, 35, 800])
        found = PassProspect(PassBelief(parts, (0.3, 0.7)), d, 5)
        p, mass = parts[1].solved(np.log(d))  # of the likelier threshold
        q = (p @ mass)[:, None]
        told = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))) @ mass
        np.testing.assert_allclose(found.gain()[:-1], told, atol=1e-12)
        assert set(np.argsort(told)[2:]) == {1, 2}  # near the crossing
        u, weight = (
            np.concatenate([x.u for x in parts]),
            np.repeat([0.3, 0.7], [len(x.u) for x in parts]),
        )
        weight = weight * np.concatenate([x.mass for x in parts])
        total = float(weight @ (u - weight @ u) ** 2)
        assert found.between + found.within == pytest.approx(total)
        means = [float(x.mass @ x.u) for x in parts]
        assert found.between == pytest.approx(0.3 * 0.7 * (means[0] - means[1]) ** 2)
        native = -0.5 * np.log(1 - found.between / 6 / total)
        assert found.gain()[-1] == pytest.approx(native)
        before = found.between
        found.add(4)  # a native seed
        assert (found.between, found.n) == (pytest.approx(before * 5 / 6), 6)
        found.add(1)
        assert found.mass.sum() == pytest.approx(1.0)
        assert found.gain()[1] < told[1]

    def test_crossing_mass_is_a_distribution(self):
        at = crossing_mass(np.array([0.0, 0.0, 1.0, 1.0]))
        assert at.tolist() == [0.0, 0.5, 0.5, 0.0]
        assert crossing_mass(np.array([0.2, 0.2, 0.2])).tolist() == pytest.approx([0.2, 0.0, 0.8])
        mass = crossing_mass(np.array([0.1, 0.05, 0.6, 0.9]))
        assert mass.sum() == pytest.approx(1.0)
        assert (mass >= 0).all()

    def test_tidy(self):
        assert [tidy(d) for d in (7, 99, 123, 287, 44_426)] == [7, 99, 120, 290, 44_000]


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"precision": 1.0}, "precision = 1; it is a factor and must be above 1"),
            ({"precision": 0.5}, "precision = 0.5"),
            ({"precision": float("nan")}, "precision = nan"),
            ({"max_trials": 0}, "max_trials = 0"),
            ({"seeds": 0}, "seeds = 0"),
            ({"grid": [100, D + 1]}, rf"--d 100,{D + 1} must lie within \[1, D = {D}\]"),
            ({"grid": []}, "--d"),
            ({"shard": (1, 2)}, "--shard: a search goes by what it has seen"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(UsageError, match=message):
            next_round(TASK, D, {}, **options)

    def test_a_range_beyond_d_names_the_key_and_the_mend(self):
        with pytest.raises(UsageError, match=r"search\.d_max = 40000.*--set search\.d_max=562"):
            next_round(TASK, 562, {})

    def test_pilot_dimensions_beyond_d(self):
        task = replace_tuning(d=(100, D + 1))
        with pytest.raises(UsageError, match=r"tuning\.d holds"):
            next_round(task, D, {})

    def test_a_threshold_at_the_floor(self):
        with pytest.raises(UsageError, match="not above the floor"):
            next_round(made_up_task(threshold_global=0.0), D, {})

    def test_a_bad_baseline_stops_the_search(self):
        with pytest.raises(StudyError, match="no better than the floor"):
            play_study(TASK, learner(power_law(300), 0.1, baseline=0.0))
        with pytest.raises(StudyError, match="baseline trials failed"):
            play_study(TASK, lambda request: Outcome(None))


def replace_tuning(d: tuple[int, ...]):
    return made_up_task(lr_rule="tuned", tuning={"grid": (1.0,), "d": d, "seeds": 1})


def test_importing_needs_no_torch():
    code = "import difficulty_bench.search, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
