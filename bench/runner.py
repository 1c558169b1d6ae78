"""A run: starts each engine, lets its scenarios measure, and writes what there is, however it ends."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from app.errors import SetupError
from app.local.stop import stop_on_signals
from bench import plots, report, stack
from bench.engines import ON_A_CPU, Engine, Scenario, names, on_a_gpu
from bench.records import NotRun, Run, machine
from bench.rounds import Rounds
from bench.scale import FULL, GPU, QUICK, Scale

RESULTS = "results.json"
SAVE_EVERY_S = 5.0


class Bar:
    """Progress of a run, in turns."""

    def __init__(self, total: int) -> None:
        live = sys.stderr.isatty()
        self._done = 0
        self._bar = tqdm(total=total, unit="turn", mininterval=0.2 if live else 15, dynamic_ncols=live)

    def say(self, text: str) -> None:
        self._bar.set_description_str(text[:60], refresh=False)
        self._bar.update(0)

    def step(self) -> None:
        self._bar.total = max(self._bar.total, self._bar.n + 1)
        self._bar.update()

    def finish(self, turns: int) -> None:
        """A scenario of about `turns` turns is over, however many there were."""
        self._done += turns
        self._bar.n = self._done
        self._bar.refresh()

    def line(self, text: str) -> None:
        """Above the bar."""
        self._bar.write(text)

    def close(self) -> None:
        self._bar.close()


def run(options: argparse.Namespace) -> int:
    """Measure; what is there is written also when it is broken off."""
    engines = on_a_gpu(options.gpu, tuple(options.vllm)) if options.gpu else ON_A_CPU
    scale = GPU if options.gpu else QUICK if options.quick else FULL
    chosen = set(options.only or names(engines))
    if unknown := chosen - set(names(engines)):
        raise SystemExit(
            f"--only: no scenario {', '.join(sorted(unknown))}; there are {', '.join(names(engines))}"
        )
    if options.vllm and not options.gpu:
        raise SystemExit(
            f"{' '.join(options.vllm)}: arguments for vLLM need --gpu; scenarios are named by --only"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    result = Run(machine(), {"scale": asdict(scale), "modes": options.modes, "engines": {}})
    total = sum(s.asks(scale) for e in engines for s in e.scenarios if s.NAME in chosen) * len(options.modes)
    bar = Bar(total)
    saved = [time.monotonic()]

    def save() -> None:
        if time.monotonic() - saved[0] > SAVE_EVERY_S:
            result.save(options.out / RESULTS)
            saved[0] = time.monotonic()

    try:
        with stop_on_signals():
            status = _all(engines, chosen, scale, result, bar, options, save)
    except KeyboardInterrupt:
        result.notes.append("The run was broken off.")
        status = 130
    finally:
        bar.close()
        result.save(options.out / RESULTS)
    written(result, options.out)
    return status


def _all(
    engines: tuple[Engine, ...],
    chosen: set[str],
    scale: Scale,
    result: Run,
    bar: Bar,
    options: argparse.Namespace,
    save: Callable[[], None],
) -> int:
    """The exit status: 1 where an engine did not start."""
    status = 0
    for engine in engines:
        wanted = [scenario for scenario in engine.scenarios if scenario.NAME in chosen]
        try:
            if wanted:
                _with_engine(engine, wanted, scale, result, bar, options, save)
        except (SetupError, RuntimeError) as exc:
            # The other engines' scenarios can still be measured.
            why = f"{exc.message} {exc.hint}" if isinstance(exc, SetupError) else str(exc)
            bar.line(f"{engine.name} did not start: {why}")
            result.not_run += [NotRun(scenario.NAME, "", why) for scenario in wanted]
            status = 1
    return status


def _with_engine(
    engine: Engine,
    scenarios: list[Scenario],
    scale: Scale,
    result: Run,
    bar: Bar,
    options: argparse.Namespace,
    save: Callable[[], None],
) -> None:
    began = time.monotonic()
    bar.say(engine.name)
    with tempfile.TemporaryDirectory(prefix="marginalia-bench-", ignore_cleanup_errors=True) as scratch:
        directory = Path(scratch)
        directory.chmod(0o711)  # as root, Postgres runs as another user
        model = str(engine.model())
        environment = dict(engine.environment)
        with stack.running(
            model,
            engine.arguments,
            directory,
            options.out / "logs" / engine.name,
            bar.say,
            policy=engine.policy,
            environment=environment,
        ) as servers:
            result.settings["engines"][engine.name] = {
                "model": Path(model).name,
                "arguments": engine.arguments,
                "savings": servers.plugin()["savings"],
            }
            bar.line(f"{engine.name}: ready after {time.monotonic() - began:.0f} s")
            rounds = Rounds(servers, result, options.modes, bar, save)
            for scenario in scenarios:
                began = time.monotonic()
                try:
                    scenario.run(rounds, scale)
                except Exception as exc:
                    # One scenario less, and not the hour of those before it.
                    result.not_run.append(NotRun(scenario.NAME, "", f"{type(exc).__name__}: {exc}"))
                bar.finish(scenario.asks(scale) * len(options.modes))
                bar.line(f"{scenario.NAME}: {time.monotonic() - began:.0f} s")


def written(result: Run, out: Path) -> None:
    pictures = plots.draw(result, out)
    for path in (out / RESULTS, *report.write(result, out, pictures), *pictures):
        print(path)
    for entry in result.not_run:
        print(f"not run: {entry.scenario} {entry.mode}: {entry.why}")
