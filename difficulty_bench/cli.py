"""The `bench` command: arguments, one-line errors, exit codes. The work is in `verbs`.

Nothing heavy is imported here, so that `bench --help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .bits import MAX_BITS
from .errors import BenchError, ResourceError
from .outputs import harmless, lead_nowhere, lossy_stderr

MAX_TOGETHER = 256
DEFAULT_STORE = Path("bench.sqlite")
EXIT_CODES = """exit codes: 0 done; 1 a trial failed; 2 usage or configuration; 3 store, data or
environment unusable; 75 out of --max-hours, 130/143 interrupted (the last line of both says how to
resume)"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale without a dash or a plus-minus sign
        sys.stdout.reconfigure(errors="backslashreplace")
    with lossy_stderr():
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    try:
        code: int = _handler(arguments.handler)(arguments)
        print(end="", flush=True)  # not at exit, where a full disk would be a traceback
        return code
    except BenchError as error:
        if arguments.debug:
            raise
        print(f"bench: {harmless(str(error))}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except OSError as error:
        if arguments.debug:
            raise
        lead_nowhere(sys.stdout)
        print(f"bench: {harmless(str(error))}", file=sys.stderr)
        return ResourceError.exit_code
    except KeyboardInterrupt as error:  # of `verbs.run`, with the number of its signal
        print(
            "bench: interrupted; no finished trial is lost, the same command goes on",
            file=sys.stderr,
        )
        return 128 + next(iter(error.args), signal.SIGINT)


def _handler(name: str) -> Callable[[argparse.Namespace], int]:
    """`module:function` of `difficulty_bench.verbs`."""
    module_name, _, function_name = name.partition(":")
    module = importlib.import_module(f"{__package__}.verbs.{module_name}")
    handler: Callable[[argparse.Namespace], int] = getattr(module, function_name)
    return handler


def positive(kind: type[Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    parse.__name__ = f"positive {kind.__name__}"
    return parse


def dimensions(text: str) -> tuple[int, ...]:
    """`100,300,1000` -> (100, 300, 1000), ascending."""
    values = _integers(text, "dimensions like 100,300,1000")
    if values[0] < 1:
        raise argparse.ArgumentTypeError(f"'{text}': every d must be at least 1")
    return values


def shard(text: str) -> tuple[int, int]:
    """`3/10` -> (3, 10): the third of ten."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    part, whole = map(int, found.groups()) if found else (0, 0)
    if not 1 <= part <= whole:
        raise argparse.ArgumentTypeError(f"'{text}': give I/N, like 3/10, with I from 1 to N")
    return part, whole


def bits_per_number(text: str) -> tuple[int, ...]:
    """`2,4,8` -> (2, 4, 8), ascending."""
    values = _integers(text, "bits per number like 2,4,8")
    if not 1 <= values[0] <= values[-1] <= MAX_BITS:
        raise argparse.ArgumentTypeError(f"'{text}': give 1 to {MAX_BITS} bits per number")
    return values


def _integers(text: str, what: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': give {what}") from None


def batch(text: str) -> int:
    """`auto` is as many as fit: groups begin at MAX_TOGETHER and are halved until they do."""
    return MAX_TOGETHER if text == "auto" else int(positive(int)(text))


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench",
        description="How hard is this problem? Its intrinsic dimension, with error bars.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--debug", action="store_true", help="show the traceback of an error or of a failed trial"
    )
    stored = argparse.ArgumentParser(add_help=False)
    stored.add_argument(
        "--store", type=Path, default=DEFAULT_STORE, metavar="PATH",
        help="the SQLite file of results (default: %(default)s)",
    )  # fmt: skip
    registry = argparse.ArgumentParser(add_help=False)
    registry.add_argument(
        "--tasks", type=Path, action="append", default=[], metavar="FILE",
        help="a registry of your own beside the suite's; repeatable",
    )  # fmt: skip
    sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    Reads = tuple[argparse.ArgumentParser, ...]

    def add(
        name: str, handler: str, text: str, reads: Reads = (stored, registry)
    ) -> argparse.ArgumentParser:
        # no abbreviations: `--task` would be read as `--tasks` where a verb has no `--task`
        verb = sub.add_parser(
            name, help=text, description=text, parents=[common, *reads], allow_abbrev=False
        )
        verb.set_defaults(handler=handler)
        return verb

    listed = add(
        "list", "look:list_tasks", "tasks: paradigm, network, D, data present?, last result"
    )
    _add_run(add("run", "run:run", "measure: baseline, search, interval; resumes if interrupted"))
    _add_report(add("report", "exchange:report", "regenerate the difficulty tables and plots"))
    _add_results(add("results", "exchange:results", "finished trials as JSON lines", (stored,)))
    study = add("study", "study:study", "an unfinished study and its checkpoints, to move it")
    study.add_argument("action", choices=["export", "import"])
    study.add_argument("file", type=Path, metavar="FILE")
    _add_task(study)
    status = add(
        "status",
        "look:status",
        "what has run, what is under way or interrupted, what failed, what it cost",
        (stored,),
    )
    show = add("show", "look:show", "a task in full, and what was measured of it")
    show.add_argument("task")
    _add_settings(show)
    for verb in (listed, status, show):
        verb.add_argument("--json", action="store_true", help="as JSON on stdout")
    export = add("export", "solutions:export", "write a trial's solution: seed and d numbers")
    export.add_argument("trial", help="its identity or the start of it, as `bench show` lists it")
    export.add_argument("file", type=Path, metavar="FILE")
    export.add_argument(
        "--bits", type=int, choices=range(1, MAX_BITS + 1), metavar="B",
        help="quantise each of the d numbers to B bits, 1 to 16 (default: float32)",
    )  # fmt: skip
    sizes = add("bits", "bits:bits", "score a study's solutions with few bits per number")
    _add_task(sizes)
    sizes.add_argument(
        "--bits", type=bits_per_number, default="1,2,3,4,6,8", metavar="B,B,...",
        help="bits per number, 1 to 16 (default: %(default)s)",
    )  # fmt: skip
    sizes.add_argument(
        "--workers",
        type=positive(int),
        metavar="N",
        help="side by side (default: cores, fewer where a GPU is small)",
    )
    _add_device(sizes)
    sizes.add_argument("--json", action="store_true", help="rows as JSON on stdout")
    sizes.add_argument("--quiet", action="store_true", help="warnings and rows alone")
    evaluate = add(
        "eval", "solutions:evaluate", "evaluate an exported solution afresh", (registry,)
    )
    evaluate.add_argument("file", type=Path, metavar="FILE")
    evaluate.add_argument("--episodes", type=positive(int), metavar="N", help="default: the task's")
    play = add("play", "solutions:play_back", "film an exported solution as it plays", (registry,))
    play.add_argument("file", type=Path, metavar="FILE")
    play.add_argument("--video", type=Path, required=True, metavar="OUT", help=".mp4 or .gif")
    play.add_argument("--episodes", type=positive(int), default=1, metavar="N")
    for verb in (evaluate, play):
        verb.add_argument("--seed", type=int, default=0, help="of the episodes")
        _add_device(verb)
    data = add("data", "machine:data", "fetch or verify the data sets", ())
    data.add_argument("action", choices=["fetch", "verify"])
    data.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    add("doctor", "machine:doctor", "what of this machine is usable and what is not", (registry,))
    return parser


def _add_task(verb: argparse.ArgumentParser) -> None:
    """Which task: by name, or an environment of the user's with an agent; and overrides."""
    add = verb.add_argument
    add("--task", dest="names", action="append", default=[], metavar="NAME",
        help="a task of the registry, see bench list; repeatable")  # fmt: skip
    add("--env", dest="envs", action="append", default=[], metavar="ID",
        help="any Gymnasium id, without a registry entry; repeatable")  # fmt: skip
    add("--agent", metavar="NAME",
        help="for --env: a template of tasks.yaml, ppo, dqn or es (default: ppo)")  # fmt: skip
    _add_settings(verb)


def _add_settings(verb: argparse.ArgumentParser) -> None:
    add = verb.add_argument
    add("--projection", metavar="NAME",
        help="hashed, fastfood, sparse, dense, gaussian or rademacher")  # fmt: skip
    add("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE",
        help="override a field, e.g. agent.learning_rate=3e-4; repeatable")  # fmt: skip


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto, the default: the GPU where there is one, but the CPU for environments "
        "whose observations are no images",
    )


def _add_run(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    _add_task(run)
    add("--d", dest="grid", type=dimensions, metavar="D,D,...", help="exactly these d, no search")
    add("--seeds", type=positive(int), metavar="N",
        help="with --d: seeds per d; else: trials near the crossing (default: the task's)"
    )  # fmt: skip
    add("--shard", type=shard, default=(1, 1), metavar="I/N",
        help="of the trials of --d, baseline included, the I-th of N shares; a --store of its own "
        "for each")  # fmt: skip
    _add_device(run)
    side = run.add_mutually_exclusive_group()
    side.add_argument(
        "--workers",
        type=positive(int),
        metavar="N",
        help="trials side by side (default: cores, fewer where a GPU is small)",
    )
    side.add_argument(
        "--ray", metavar="ADDRESS",
        help="on a Ray cluster, a trial to a core: HOST:PORT of its head, auto, or local; what its "
        "workers print, tracebacks of --debug too, is in Ray's logs",
    )  # fmt: skip
    side.add_argument(
        "--batch-trials", dest="batch", type=batch, metavar="K",
        help="up to K trials of a round (search.batch) in one program, for a GPU; "
        "auto: as many as fit",
    )  # fmt: skip
    add("--precision", type=float, metavar="F",
        help="stop where d_int90 is within a factor F of both ends of its interval (default: the "
        "task's)")  # fmt: skip
    add("--max-trials", type=positive(int), metavar="N",
        help="pilots and baseline included (default: the task's; of a grid: all)")  # fmt: skip
    add(
        "--max-hours",
        type=positive(float),
        metavar="H",
        help="checkpoint and stop after H hours: exit code 75 where the study is not done",
    )
    add("--wandb", choices=["off", "offline", "online"], default="off",
        help="mirror finished trials to Weights & Biases (default: off)")  # fmt: skip
    add(
        "--dry-run",
        action="store_true",
        help="check everything, say what would run next, write nothing",
    )
    add("--json", action="store_true", help="rows as JSON on stdout, events as JSON on stderr")
    add("--quiet", action="store_true", help="warnings and rows alone")


def _add_report(report: argparse.ArgumentParser) -> None:
    add = report.add_argument
    add("--out", type=Path, default=Path("reports"), metavar="DIR",
        help="DIR/results.jsonl is merged with the store (default: %(default)s)")  # fmt: skip
    add("--format", default="md,html,tex,json,csv", metavar="F,F,...",
        help="some of md, html, tex, json, csv (default: all)")  # fmt: skip
    add("--clips", action="store_true",
        help="also film what a few d of each controller in the store can play")  # fmt: skip


def _add_results(results: argparse.ArgumentParser) -> None:
    add = results.add_argument
    add("action", choices=["export", "import"])
    add("file", type=Path, metavar="FILE")
    add("--task", dest="names", action="append", default=[], metavar="NAME",
        help="export these tasks only; repeatable")  # fmt: skip
