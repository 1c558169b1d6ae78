"""A run: starts each engine, lets its scenarios measure, and writes what there is, however it ends."""

import argparse
import sys
import tempfile
import time
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
    wanted = [(engine, [s for s in engine.scenarios if s.NAME in chosen]) for engine in engines]
    runner = Runner(
        options.out, options.modes, scale, [(e, scenarios) for e, scenarios in wanted if scenarios]
    )
    status = runner.run()
    written(runner.result, options.out)
    return status


class Runner:
    """One run, into `out`: the scenarios of each engine, in all `modes`."""

    def __init__(
        self, out: Path, modes: list[str], scale: Scale, wanted: list[tuple[Engine, list[Scenario]]]
    ) -> None:
        self.result = Run(machine(), {"scale": asdict(scale), "modes": modes, "engines": {}})
        self._out, self._modes, self._scale, self._wanted = out, modes, scale, wanted
        self._bar = Bar(sum(self._turns(scenario) for _, scenarios in wanted for scenario in scenarios))
        self._saved = time.monotonic()

    def run(self) -> int:
        """The exit status: 1 where an engine did not start, 130 where a signal came."""
        status = 0
        try:
            with stop_on_signals():
                for engine, scenarios in self._wanted:
                    try:
                        self._with_engine(engine, scenarios)
                    except (SetupError, RuntimeError) as exc:
                        # The other engines' scenarios can still be measured.
                        why = f"{exc.message} {exc.hint}" if isinstance(exc, SetupError) else str(exc)
                        self._bar.line(f"{engine.name} did not start: {why}")
                        self.result.not_run += [NotRun(scenario.NAME, "", why) for scenario in scenarios]
                        status = 1
        except KeyboardInterrupt:
            self.result.notes.append("The run was broken off.")
            status = 130
        finally:
            self._bar.close()
            self.result.save(self._out / RESULTS)
        return status

    def _turns(self, scenario: Scenario) -> int:
        return scenario.asks(self._scale) * len(self._modes)

    def _save(self) -> None:
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.result.save(self._out / RESULTS)
            self._saved = time.monotonic()

    def _with_engine(self, engine: Engine, scenarios: list[Scenario]) -> None:
        began = time.monotonic()
        self._bar.say(engine.name)
        with tempfile.TemporaryDirectory(prefix="marginalia-bench-", ignore_cleanup_errors=True) as scratch:
            directory = Path(scratch)
            directory.chmod(0o711)  # as root, Postgres runs as another user
            model = engine.model()
            with stack.running(
                str(model),
                engine.arguments,
                directory,
                self._out / "logs" / engine.name,
                self._bar.say,
                policy=engine.policy,
                environment=dict(engine.environment),
            ) as servers:
                self.result.settings["engines"][engine.name] = {
                    "model": model.name,
                    "arguments": engine.arguments,
                    "savings": servers.plugin()["savings"],
                }
                self._bar.line(f"{engine.name}: ready after {time.monotonic() - began:.0f} s")
                rounds = Rounds(servers, self.result, self._modes, self._bar, self._save)
                for scenario in scenarios:
                    self._measure(scenario, rounds)

    def _measure(self, scenario: Scenario, rounds: Rounds) -> None:
        began = time.monotonic()
        try:
            scenario.run(rounds, self._scale)
        except Exception as exc:
            # One scenario less, and not the hour of those before it.
            self.result.not_run.append(NotRun(scenario.NAME, "", f"{type(exc).__name__}: {exc}"))
        self._bar.finish(self._turns(scenario))
        self._bar.line(f"{scenario.NAME}: {time.monotonic() - began:.0f} s")


def written(result: Run, out: Path) -> None:
    """Tables and pictures beside the results, and their names on the console."""
    pictures = plots.draw(result, out)
    for path in (out / RESULTS, *report.write(result, out, pictures), *pictures):
        print(path)
    for entry in result.not_run:
        print(f"not run: {entry.scenario} {entry.mode}: {entry.why}")
