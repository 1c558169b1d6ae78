"""Certifies one model: loads it as a server would, then probes, plays and compares."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from app.certify.boundaries import boundaries
from app.certify.certificate import Boundaries, Certificate, Finding
from app.certify.clock import clock
from app.certify.model import Template
from app.certify.offline import Offline, Refused
from app.certify.parity import compare
from app.certify.probes import histories
from app.certify.probing import probe
from app.certify.rewrites import PRESENT
from app.certify.scenarios import reuses
from app.certify.talk import tool, user
from app.certify.texts import SALT, Texts
from app.certify.thread import stock_chat
from app.errors import SetupError
from app.vllm_plugin.seam import VLLM_VERSION

_SPECIAL = 24
"""How many added tokens random texts hold, beside those of the template."""
_TURNS_SAID = 100

Say = Callable[[str], None]


def certify(
    directory: Path, name: str, template: Template | None, *, turns: int, seed: int, say: Say
) -> Certificate:
    """Load the model in `directory` and find out.

    name: what the certificate calls it. template: in place of the tokenizer's own. turns: how many random
    ones are compared. say: told what is done. Raises SetupError where there is nothing to certify.
    """
    say("loading the tokenizer and vLLM's chat serving")
    worker = _load(directory, name, template.text if template else None)
    try:
        with clock(PRESENT):
            return _certify(worker, name, template, turns, seed, say)
    finally:
        worker.close()


def _load(directory: Path, name: str, chat_template: str | None) -> Offline:
    try:
        return Offline(directory, chat_template)
    except Exception as exc:
        raise SetupError(
            f"vLLM cannot load {name}: {exc}",
            hint="If `vllm serve` does, try the tokenizer alone: copy tokenizer.json, "
            "tokenizer_config.json and chat_template.jinja to a directory without config.json.",
        ) from exc


def _certify(
    worker: Offline, name: str, template: Template | None, turns: int, seed: int, say: Say
) -> Certificate:
    refusal = _refusal(worker, name)
    findings: list[Finding] = []
    if refusal is None:
        say("probing the chat template")
        findings = probe(worker)
        refusal = worker.service.refusal
    found = {finding.name for finding in findings}
    tokens = _boundaries(worker, refusal)
    reuse, parity = [], None
    if refusal is None:
        say("playing typical conversations")
        reuse = list(reuses(worker))
        parity = compare(
            worker,
            turns,
            seed,
            _special(worker, tokens),
            orderly=0.9 if "alternation_refused" in found else 0.1,
            progress=_said_now_and_then(turns, say),
        )
    return Certificate(
        model=name,
        chat_template=_template_name(worker, template),
        marginalia_version=version("marginalia"),
        vllm_version=VLLM_VERSION,
        refusal=refusal,
        append_only=refusal is None and all(finding.kind != "rewrite" for finding in findings),
        findings=findings,
        boundaries=tokens,
        reuse=reuse,
        parity=parity,
        exact=parity is not None and parity.turns > 0 and not parity.different,
    )


def _refusal(worker: Offline, name: str) -> str | None:
    """Why the template takes no conversation at all. Raises SetupError where there is no template."""
    outcome = worker.runner.run(worker.stock(stock_chat(None), [user(1)], SALT))
    if not isinstance(outcome, Refused):
        return None
    if outcome.kind == "ChatTemplateResolutionError":
        raise SetupError(
            f"{name} has no chat template: without one there are no conversations to continue",
            hint="Name the one that vLLM is started with: --chat-template FILE",
        )
    return f"the chat template refuses even one user message: {outcome.message}"


def _boundaries(worker: Offline, refusal: str | None) -> Boundaries | None:
    if worker.boundary_tokenizer is None:
        return None
    texts = Texts(worker, {})
    typical = "" if refusal else "".join(texts.of(h, tools=[tool("get_weather")]) for h in histories(texts))
    return boundaries(worker.boundary_tokenizer, typical)


def _special(worker: Offline, found: Boundaries | None) -> list[str]:
    """Added tokens for random texts to hold."""
    if found is None:
        return sorted(worker.tokenizer.get_added_vocab())[:_SPECIAL]
    return [*found.in_use, *found.safe[:_SPECIAL], *(unsafe.token for unsafe in found.unsafe[:_SPECIAL])]


def _template_name(worker: Offline, template: Template | None) -> str:
    if worker.boundary_tokenizer is None:
        return "none, vLLM uses the harmony library"
    return template.name if template else "the tokenizer's own"


def _said_now_and_then(turns: int, say: Say) -> Callable[[int], None]:
    said = 0

    def progress(done: int) -> None:
        nonlocal said
        if done >= said or done >= turns:
            say(f"comparing random turns with full tokenization: {min(done, turns)} of {turns}")
            said = done + _TURNS_SAID

    return progress
