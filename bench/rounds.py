"""Turns of all modes on one engine, one at a time: each finds the same KV cache, and only equal work counts.

Before the modes are asked, in random order, stock vLLM answers the same turn once, untimed. Its full render
gives the ids that every mode's engine request is held against, and leaves all of the prompt's blocks in the
KV cache, so that no mode pays for another's prefill: all send the same `cache_salt`.
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import psutil
import xxhash

from bench import http, items
from bench.items import Item
from bench.modes import ALL, Agentic, Answer, Chat, Mode, Options, Point
from bench.records import NotRun, Row, Run
from bench.stack import Stack
from bench.tap import SEEN

PAUSE_S = 0.05
"""Before each request: the threads of the process that answered last spin for a while, on the same cores."""
Points = dict[str, Point]


class Progress(Protocol):
    """What a person sees of a run."""

    def say(self, text: str) -> None:
        """What is being done."""

    def step(self) -> None:
        """One turn of one mode is done."""


class Rounds:
    """Asks, measures, and puts rows into `run`; `save` is told of each, so that nothing measured is lost."""

    def __init__(
        self, stack: Stack, run: Run, modes: Sequence[str], progress: Progress, save: Callable[[], None]
    ) -> None:
        self.stack = stack
        self.run = run
        self.modes: dict[str, Mode] = {name: ALL[name](stack) for name in modes}
        self.progress = progress
        self._save = save
        self._chance = random.Random(0)
        self._processes = Processes(stack)

    def turn(
        self,
        scenario: str,
        case: str,
        number: int,
        points: Points,
        new: list[Item] | dict[str, list[Item]],
        options: Options,
        *,
        counted: bool = True,
    ) -> Points:
        """The same turn in all modes that `points` has; returns where each stands after it.

        new: what the user says, by mode where it has ids in it. A mode that fails is left out from there on,
        and the run says why. `counted=False` leaves no row.
        """
        news = new if isinstance(new, dict) else dict.fromkeys(points, new)
        oracle = self._warm(points, news, options)
        after: Points = {}
        names = list(points)
        self._chance.shuffle(names)
        rows = []
        for name in names:
            try:
                row, after[name] = self.one(
                    scenario, case, name, number, points[name], news[name], options, oracle
                )
            except http.Refused as exc:
                self.refused(scenario, name, f"{case}: {exc}")
                continue
            rows.append(row)
        for row in rows:  # not before: a file is written now and then, and no mode's turn shall pay for it
            self.keep(row, counted=counted)
        return {name: after[name] for name in points if name in after}

    def one(
        self,
        scenario: str,
        case: str,
        name: str,
        number: int,
        point: Point,
        new: list[Item],
        options: Options,
        oracle: str | None = None,
    ) -> tuple[Row, Point]:
        """One timed turn of one mode. oracle: the hash of the ids of a full render, to compare with."""
        mode = self.modes[name]
        self.progress.say(f"{scenario} {case}, round {number}: {name}")
        self._seen(mode)
        time.sleep(PAUSE_S)
        cpu = self._processes.cpu(mode)
        answer, after = mode.ask(point, new, options)
        self.progress.step()
        spent = {key: 1e3 * (now - cpu[key]) for key, now in self._processes.cpu(mode).items() if key in cpu}
        seen, service = self._seen(mode)
        measures = _measures(answer, seen) | spent | self._processes.memory(mode)
        if mode.service:
            measures |= {"service_ms": measures["before_ms"] + measures["after_ms"]}
        measures |= {name: float(service[name]) for name in ("statements", "database_ms") if name in service}
        said = xxhash.xxh3_64_hexdigest(items.text_of(answer.items).encode())
        caching = answer.caching
        equal = None if oracle is None else seen["prompt"] == oracle
        path, reason = caching.get("path"), caching.get("reason")
        return Row(scenario, case, name, number, path, reason, equal, said, measures), after

    def keep(self, row: Row, *, counted: bool = True) -> None:
        """Put a row into the run; one that only warmed up is not counted."""
        if counted:
            self.run.rows.append(row)
            self._save()

    def started(self, scenario: str, modes: Iterable[str] | None = None) -> Points:
        """A new conversation for each mode (of `modes`) that runs; the run says why another does not."""
        points = {}
        for name, mode in self.modes.items():
            if modes is not None and name not in modes:
                continue
            if isinstance(mode, Agentic) and self.stack.agentic is None:
                self.refused(scenario, name, self.stack.why_not)
            else:
                points[name] = Point()
        return points

    def refused(self, scenario: str, name: str, why: str) -> None:
        """Note that a mode could not run; the first reason in a scenario is enough."""
        noted = {(entry.scenario, entry.mode) for entry in self.run.not_run}
        if (scenario, name) not in noted:
            self.run.not_run.append(NotRun(scenario, name, why))

    def _warm(self, points: Points, news: dict[str, list[Item]], options: Options) -> str:
        """Prefill for all, and the hash of the ids of a full render."""
        name = Chat.name if Chat.name in points else next(iter(points))
        point, new = points[name], news[name]
        url = f"{self.stack.vllm.url}/v1/chat/completions"
        body = Chat.body(point, new, options)
        http.ask(f"{self.stack.vllm.url}{SEEN}")
        http.stream(url, body | {"cache_salt": self.stack.salt})
        prompt: str = http.ask(f"{self.stack.vllm.url}{SEEN}")["seen"][-1]["prompt"]
        return prompt

    def _seen(self, mode: Mode) -> tuple[dict[str, Any], dict[str, Any]]:
        """What vLLM saw of the last turn, and what Marginalia's database did for it."""
        seen = http.ask(f"{self.stack.vllm.url}{SEEN}")
        self._processes.api = seen["pid"]
        service: dict[str, Any] = {}
        if mode.service == "marginalia":
            service = http.ask(f"{self.stack.marginalia.url}{SEEN}")
        asked = [one for one in seen["seen"] if one["asked"] is not None]
        return asked[-1] if asked else {}, service


class Processes:
    """CPU time and memory of the processes that a turn takes part in."""

    def __init__(self, stack: Stack) -> None:
        self.api: int | None = None
        self.pids = {"marginalia": stack.marginalia.pid}
        if stack.agentic:
            self.pids["agentic"] = stack.agentic.pid

    def cpu(self, mode: Mode) -> dict[str, float]:
        """Seconds so far, by measure."""
        spent = {}
        with contextlib.suppress(OSError, psutil.Error):
            if mode.service in self.pids:
                spent["service_cpu_ms"] = _cpu_s(self.pids[mode.service])
            if self.api is not None:
                spent["api_cpu_ms"] = _cpu_s(self.api)
                children = psutil.Process(self.api).children(recursive=True)
                spent["engine_cpu_ms"] = sum(_cpu_s(child.pid) for child in children)
        return spent

    def memory(self, mode: Mode) -> dict[str, float]:
        """Resident megabytes, by measure."""
        sizes = {}
        with contextlib.suppress(psutil.Error):
            if mode.service in self.pids:
                sizes["service_rss_mb"] = psutil.Process(self.pids[mode.service]).memory_info().rss / 1e6
            if self.api is not None:
                sizes["api_rss_mb"] = psutil.Process(self.api).memory_info().rss / 1e6
        return sizes


def _cpu_s(pid: int) -> float:
    # Linux's clock of a process's CPU time (clock_getcpuclockid(3)): nanoseconds, where /proc has ticks.
    return time.clock_gettime((~pid << 3) | 2)


def _measures(answer: Answer, seen: dict[str, Any]) -> dict[str, Any]:
    streamed = answer.streamed
    asked, first = seen["asked"], seen["first"]
    produced = seen["output_tokens"]
    cached = seen["cached_tokens"] or 0
    measures = {
        "ttft_ms": answer.first - streamed.began,
        "latency_ms": streamed.ended - streamed.began,
        "before_ms": seen["received"] - streamed.began,
        "api_ms": asked - seen["received"],
        "engine_ms": first - asked,
        "relay_ms": answer.first - first,
        "after_ms": streamed.ended - seen["sent"],
    }
    measures = {name: 1e3 * seconds for name, seconds in measures.items()}
    if produced > 1:
        measures["tpot_ms"] = 1e3 * (answer.last - answer.first) / (produced - 1)
    prompt = seen["prompt_tokens"]
    return measures | {
        "client_bytes": streamed.body_bytes,
        "engine_bytes": seen["body_bytes"],
        "prompt_tokens": prompt,
        "output_tokens": produced,
        "cached_tokens": cached,
        "reused_tokens": answer.caching.get("reused_tokens", 0),
        "tokenized_tokens": answer.caching.get("tokenized_tokens", prompt),
    }
