"""What a task's problem promises: data or environments, and a held-out evaluation.

A problem factory, named in `tasks.yaml` as `module:function`, returns one of the two classes
below. It must be cheap to call: shapes are known at once, data is read at first use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from .errors import ResourceError, UsageError
from .generators import seeded
from .pairs import check_classes, check_judged, check_pair

MAX_STEPS = 200_000  # of one episode; Atari's longest have 108,000
Split = Literal["validation", "test"]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Evaluation:
    """Scores of one network on held-out material.

    `score` is the metric; `sd` the standard deviation over its `n` units (episodes), or None
    where the metric is one number for a whole set of `n` samples.
    """

    score: float
    n: int
    sd: float | None = None

    @classmethod
    def of_episodes(cls, returns: list[float]) -> Evaluation:
        array = np.asarray(returns, dtype=float)
        sd = float(array.std(ddof=1)) if len(array) > 1 else None
        return cls(float(array.mean()), len(array), sd)


class Problem(ABC):
    """A problem: the shapes a network must fit, and how well a trained network does.

    `metric` is the name of the score (`test_accuracy`, `episodic_return`, ...), `ceiling` its
    largest possible value (None where there is none). Images stay uint8 in memory; `scale`
    multiplies them on their way into the network. `has_validation`: whether it has held-out
    material beside that of the score, which the `tuned` learning-rate rule needs.
    """

    input_shape: tuple[int, ...]
    output_size: int
    metric: str
    ceiling: float | None = None
    scale: float = 1.0
    has_validation: bool = True

    @property
    def faster_on_gpu(self) -> bool:
        """Whether `--device auto` takes the GPU, where there is one."""
        return True

    def prepare(self, x: Tensor) -> Tensor:
        """Rows as stored or observed -> float32 rows as the network takes them."""
        if self.scale == 1.0:
            return x.float()
        # in place only in a copy of our own
        return x * self.scale if x.dtype == torch.float32 else x.float().mul_(self.scale)

    @abstractmethod
    def missing(self) -> str | None:
        """Say in one line what this machine lacks (a file, a package) and the mend; else None."""

    @abstractmethod
    def evaluate(
        self, network: nn.Module, *, split: Split, seed: int, device: torch.device
    ) -> Evaluation:
        """Score `network` on held-out material: never what training saw.

        `seed` decides everything random in it (starts, episodes); the same seed gives the same
        score. The network is left in the mode (train or eval) in which it came.
        """


def seeded_evaluation(
    problem: Problem, network: nn.Module, *, split: Split, seed: int, device: torch.device
) -> Evaluation:
    """`problem.evaluate` with the global generators seeded, too, and put back."""
    with seeded(seed, device):
        return problem.evaluate(network, split=split, seed=seed, device=device)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(output, target)


def accuracy(output: Tensor, target: Tensor) -> float:
    """Share of rows of `output` (n, classes) whose largest entry is at `target` (n,).

    nan where an output is nan, which an arg max would take for the largest.
    """
    if bool(output.isnan().any()):
        return float("nan")
    return float((output.argmax(1) == target).double().mean())


@dataclass
class SupervisedProblem(Problem):
    """Tensors to fit and tensors to be judged on.

    `load()` returns the pairs (x, y) under `train`, `test` and, unless `has_validation` is False,
    `validation`; it runs once, at first use. `validation` must be a part of `train` only where
    `validation_in_train` says so: then it is the last rows of `train`, and a trial judged on
    `validation` trains on the rest.

    `loss(output, target)` is what training minimises (a mean over the batch);
    `score(output, target)` is the metric over a whole split.
    """

    input_shape: tuple[int, ...]
    output_size: int
    load: Callable[[], Mapping[str, Pair]]
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    score: Callable[[Tensor, Tensor], float] = accuracy
    metric: str = "test_accuracy"
    ceiling: float | None = 1.0
    scale: float = 1.0
    has_validation: bool = True
    validation_in_train: bool = False
    requires: Callable[[], str | None] = lambda: None

    def missing(self) -> str | None:
        return self.requires()

    @cached_property
    def splits(self) -> Mapping[str, Pair]:
        """What `load` returns. Raise UsageError where a split is missing."""
        splits = self.load()
        if not isinstance(splits, Mapping):
            raise UsageError(
                f"load() of the problem returns {type(splits).__name__}; return a dict of pairs "
                "(inputs, targets)"
            )
        for name in self._needed():
            if name not in splits:
                raise UsageError(
                    f"load() of the problem returns no '{name}'; add it"
                    + (", or give has_validation=False" if name == "validation" else "")
                )
        return splits

    def check_data(self) -> None:
        """Read the splits. Raise UsageError for one that no training could use."""
        for name in self._needed():
            check_pair(name, self.splits[name], self.input_shape, self.prepare)
            if self.loss is cross_entropy:
                check_classes(name, self.splits[name][1], self.output_size)
            if self.score is accuracy and name != "train":
                check_judged(name, self.splits[name][1])

    def _needed(self) -> list[str]:
        return ["train", "test", *(["validation"] if self.has_validation else [])]

    def chance(self) -> float | None:
        """The accuracy on the test split of always naming its largest class.

        None where the score is not `accuracy`.
        """
        if self.score is not accuracy:
            return None
        y = self.splits["test"][1]
        return float(y.bincount().max()) / len(y)

    def training_pair(self, split: Split) -> Pair:
        """The pair to train on when the network will be judged on `split`."""
        x, y = self.splits["train"]
        if split == "validation" and self.validation_in_train:
            kept = len(x) - len(self.splits["validation"][0])
            return x[:kept], y[:kept]
        return x, y

    def evaluate(
        self, network: nn.Module, *, split: Split, seed: int, device: torch.device
    ) -> Evaluation:
        x, y = self.splits[split]
        was_training = network.training
        network.eval()
        with torch.no_grad():
            rows = [network(self.prepare(part.to(device))) for part in torch.split(x, 2000)]
        network.train(was_training)
        return Evaluation(self.score(torch.cat(rows), y.to(device)), len(x))


class EnvironmentProblem(Problem):
    """Environments to act in.

    A discrete action is the arg max of the network's `output_size` outputs; a continuous one is
    its outputs, clipped to the action space. `protocol` says in one line how episodes are played;
    `evaluate` plays `eval_episodes` of them.
    """

    id: str
    protocol: str = ""
    eval_episodes: int
    observation_space: gym.Space[Any]
    action_space: gym.Space[Any]
    metric = "episodic_return"

    @property
    def sees_images(self) -> bool:
        """Whether observations are images (C, H, W)."""
        return len(self.input_shape) == 3

    @property
    def faster_on_gpu(self) -> bool:
        """Only from images, as SB3 advises: smaller policies wait for their launches."""
        return self.sees_images

    @abstractmethod
    def make_envs(self, num_envs: int, seed: int) -> gym.vector.VectorEnv:
        """Training environments, vectorised, autoreset in SAME_STEP mode.

        Rewards are those the learner shall see (Atari: clipped); the return of the episode, as
        the metric counts it, is in `info["episode"]["r"]` (Gymnasium's RecordEpisodeStatistics
        layout) on the step that ends it.
        """

    def make_episodes(self, num_envs: int) -> gym.vector.VectorEnv:
        """Environments to play one whole episode each after every `reset(seed=seeds)`.

        `seeds` are a list of num_envs integers below 2^30; the same seed is the same start. The
        return and the length are in `info["episode"]` as `make_envs` has them; what an environment
        gives after its episode is ignored, so it may rest.
        """
        return self.make_envs(num_envs, seed=0)

    def rendered_envs(self, seed: int) -> gym.vector.VectorEnv:
        """One environment as `make_envs(1, seed)` plays it, that can be looked at.

        Its `render()` gives a tuple of one picture (H, W, 3) uint8 of the present state, its
        `metadata["render_fps"]` the steps per second of a video. Raise ResourceError where nothing
        can be drawn, as here by default.
        """
        raise ResourceError(
            f"{self.id}: {type(self).__name__} draws nothing; give it a method rendered_envs"
        )


def interval(problem: Problem, found: Evaluation) -> tuple[float, float] | None:
    """95% interval of the score over units like those evaluated; None where it has no spread.

    Student's for a mean of episodes; for an accuracy Wilson's (1927), which stays within [0, 1].
    """
    score, n = found.score, found.n
    if found.sd is not None:
        half = float(stdtrit(n - 1, 0.975)) * found.sd / float(np.sqrt(n))
        return score - half, score + half
    if isinstance(problem, SupervisedProblem) and problem.score is accuracy:
        from scipy.stats import binomtest  # here: it takes half a second to import

        ends = binomtest(round(score * n), n).proportion_ci(0.95, "wilson")
        return float(ends.low), float(ends.high)
    return None


def check_limit(max_episode_steps: int | None, id: str) -> None:
    """Raise UsageError for an environment `id` whose episodes may have no end.

    Before anything is trained: that a random policy's episodes end says nothing of a good one's.
    """
    limit = max_episode_steps
    if limit is None or limit > MAX_STEPS:
        given = "no step limit" if limit is None else f"a step limit of {limit:,}"
        raise UsageError(
            f"{id}: episodes have {given}, and a good policy might never end one; give at most "
            f"{MAX_STEPS:,}: --set problem.env_kwargs.max_episode_steps=N, or register the "
            "environment with it"
        )


def check_length(steps: int, id: str) -> None:
    """Raise UsageError for an episode of the environment `id` that has no end."""
    if steps >= MAX_STEPS:
        raise UsageError(
            f"{id}: an episode did not end within {MAX_STEPS:,} steps; register the "
            "environment with max_episode_steps, or give it in problem.env_kwargs"
        )


def act(network: nn.Module, observation: Tensor, action_space: gym.Space[Any]) -> np.ndarray:
    """Deterministic actions, (num_envs,) or (num_envs, action_dim), for prepared observations."""
    with torch.no_grad():
        return to_actions(network(observation), action_space)


def to_actions(output: Tensor, action_space: gym.Space[Any]) -> np.ndarray:
    """Deterministic actions for a policy's outputs (num_envs, output_size).

    Raise ValueError for nan, which an arg max would take for the largest.
    """
    if bool(output.isnan().any()):
        raise ValueError("the policy's outputs are nan; its observations or its parameters are")
    if isinstance(action_space, gym.spaces.Discrete):
        return np.asarray(output.argmax(1).cpu()) + int(action_space.start)
    assert isinstance(action_space, gym.spaces.Box)
    clipped: np.ndarray = np.clip(output.cpu().numpy(), action_space.low, action_space.high)
    return clipped


def count_parameters(network: nn.Module) -> int:
    """D: the number of distinct trainable parameters."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
