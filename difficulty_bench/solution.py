"""A solution as what it is in a random subspace: seeds and d numbers.

The file is JSON. It names a task of the registry and holds z, in float32 or quantised; theta_0
and P are drawn anew from the trial's identity, so a file of a few kilobytes is a whole network.
Reading it runs no code of the file's choosing: it can name neither an entry point nor a package.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

from . import projection
from .bits import size_bits
from .errors import UsageError
from .quantise import Quantiser
from .records import Reading, check_request
from .registry import Registry
from .results import Request, TrialResult
from .seeds import content_hash
from .trial import Trial, build_network, parameter_vector
from .whole_file import whole_file
from .yaml_lines import ENTRY_POINT, parse_scalar, sets_entry_point

FORMAT = 2
PROSE = "notes", "description"  # keys that people alone read
GIVE_ONE, ANEW = "give a file of `bench export`", "export the trial anew"  # mends


@dataclass(frozen=True)
class Solution:
    """One trial and its z, float32 (d,). `D` counts the projected parameters.

    With a quantiser, z is what that decodes to.
    """

    trial: Trial
    settings: tuple[str, ...]
    D: int
    z: Tensor
    quantiser: Quantiser | None = None

    @classmethod
    def stored(cls, trial: Trial, settings: tuple[str, ...], D: int, z: bytes) -> Solution:
        """Of z as the store keeps it: float32, little-endian."""
        return cls(trial, settings, D, torch.tensor(np.frombuffer(z, dtype="<f4")))

    @classmethod
    def of(
        cls, reading: Reading, result: TrialResult, z: bytes, registry: Registry, source: str
    ) -> Solution:
        """Of a trial of the store `source`. Raise UsageError as `trusted_trial` does."""
        name, settings = reading.task.name, reading.settings
        trial = trusted_trial(registry, name, settings, result.request, reading.study, source)
        return cls.stored(trial, settings, result.D, z)

    @property
    def size_bits(self) -> int:
        """Of z; see `bits.size_bits`."""
        return size_bits(len(self.z), self.quantiser.bits if self.quantiser else None)

    def quantised(self, bits: int) -> Solution:
        """The same with `bits` bits a number, 1 to MAX_BITS."""
        quantiser = Quantiser.fit(self.z, bits)
        z = quantiser.decode(quantiser.encode(self.z))
        return replace(self, z=z, quantiser=quantiser)

    def network(self) -> nn.Module:
        """The trained network, rebuilt: theta_0 + P z.

        Raise UsageError where D cannot be its, or where seed and z do not hold all of it.
        """
        task, streams = self.trial.task, self.trial.streams
        network = build_network(task, task.problem(), streams.theta_0)
        if next(network.buffers(), None) is not None:
            raise UsageError(
                f"the network of '{task.name}' has buffers (of batch norm, say), which seed and z "
                "do not hold; only a network without them can be rebuilt"
            )
        theta = parameter_vector(network)
        # A critic trained in the same subspace, at most as large, comes after the policy.
        if not theta.numel() <= self.D <= 2 * theta.numel():
            raise UsageError(
                f"the solution has D = {self.D:,} and the network of '{task.name}' "
                f"{theta.numel():,} parameters; {ANEW}"
            )
        P = projection.make(task.projection, self.D, self.trial.request.d, streams.projection)
        theta = theta + P.project(self.z)[: theta.numel()]
        vector_to_parameters(theta, (p for p in network.parameters() if p.requires_grad))
        return network

    def save(self, path: Path) -> None:
        """Raise UsageError for a path that cannot be written."""
        quantiser = self.quantiser
        z = quantiser.pack(self.z) if quantiser else self.z.numpy().astype("<f4").tobytes()
        content = {
            "format": FORMAT,
            "task": self.trial.task.name,
            "settings": list(self.settings),
            "study": self.trial.study,
            "request": asdict(self.trial.request),
            "D": self.D,
            **({"quantiser": asdict(quantiser)} if quantiser else {}),
            "z": base64.b64encode(z).decode(),
        }
        content["checksum"] = content_hash(content)
        with whole_file(path) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())


def load(path: Path, registry: Registry) -> Solution:
    """Read a solution. Raise UsageError naming file and key for one that does not fit."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; {GIVE_ONE}") from None
    except (ValueError, RecursionError):
        raise UsageError(f"{path}: not a solution file (no JSON); {GIVE_ONE}") from None
    try:
        return _parse(content, path, registry)
    except KeyError as error:
        missing = f"the key {error} is missing"
        raise UsageError(f"{path}: not a solution file: {missing}; {GIVE_ONE}") from None
    except (TypeError, ValueError, RecursionError, binascii.Error) as error:
        raise UsageError(f"{path}: not a solution file: {error}; {GIVE_ONE}") from None


def _parse(content: dict[str, Any], path: Path, registry: Registry) -> Solution:
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not a mapping")
    if content["format"] != FORMAT:
        raise UsageError(f"{path}: format {content['format']}; this program reads {FORMAT}; {ANEW}")
    if content.pop("checksum") != content_hash(content):
        raise UsageError(f"{path}: damaged or edited since it was made; {ANEW}")
    settings = tuple(str(setting) for setting in content["settings"])
    request = Request(**content["request"])
    check_request(request)
    name, study = str(content["task"]), str(content["study"])
    trial = trusted_trial(registry, name, settings, request, study, str(path))
    raw, d = base64.b64decode(content["z"], validate=True), trial.request.d
    quantiser = Quantiser(**content["quantiser"]) if "quantiser" in content else None
    z = quantiser.unpack(raw, d) if quantiser else torch.tensor(np.frombuffer(raw, dtype="<f4"))
    if len(z) != d:
        raise UsageError(f"{path}: z holds {len(z)} numbers, request.d says {d}; {ANEW}")
    if not bool(torch.isfinite(z).all()):
        raise UsageError(f"{path}: z holds numbers that are not finite; {ANEW}")
    return Solution(trial, settings, int(content["D"]), z, quantiser)


def trusted_trial(
    registry: Registry,
    name: str,
    settings: tuple[str, ...],
    request: Request,
    study: str,
    source: str,
) -> Trial:
    """The trial of task `name` with `settings`; all from `source`, a file of unknown origin.

    Raise UsageError for what would let it choose code: a package, or an entry point that the
    registry does not name itself; and where the registry's task is not that of `study`.
    """
    _check_settings(settings, source, registry.entry_points())
    if name not in registry.names() and ":" in name:
        raise _package(source, name)
    trial = Trial(registry.get(name, settings), request)
    if trial.study != study:
        raise UsageError(
            f"{source}: made with another definition of '{name}' than version "
            f"{trial.task.version} here; use the version that made it"
        )
    return trial


def _check_settings(settings: tuple[str, ...], source: str, known: set[str]) -> None:
    for setting in settings:
        key, _, text = setting.partition("=")
        if key in PROSE:
            continue
        value = parse_scalar(text)  # YAML can escape any letter
        if sets_entry_point(setting) and isinstance(value, str) and value in known:
            continue
        words = [key, *_words(value)]
        if any(ENTRY_POINT in word for word in words):
            raise UsageError(
                f"{source}: settings: a solution may not name an entry point that no task of the "
                "registry has; put its task into a file of yours and give --tasks FILE"
            )
        if any(":" in word for word in words):
            raise _package(source)


def _words(value: Any) -> Iterator[str]:
    """Every key and every text in a parsed value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value:
            yield from _words(item)
            if isinstance(value, dict):
                yield from _words(value[item])


def _package(source: str, name: str = "") -> UsageError:
    """Gymnasium imports `package` for an id like `package:Name-v0`."""
    line = f", the line `'{name}': {{extends: '{name}'}}`," if name else ", with the id in it,"
    return UsageError(
        f"{source}: a solution may not name a package; where you trust it, put its task{line} "
        "into a file of yours and give --tasks FILE"
    )
