"""All probes on one template, with reasoning switched on and off where the template knows that."""

import msgspec

from app.certify.certificate import Finding
from app.certify.notes import NOTES
from app.certify.offline import Offline
from app.certify.rewrites import RANDOM, REWRITES
from app.certify.talk import answer, user
from app.certify.texts import Texts

_SWITCH = "enable_thinking"


def probe(worker: Offline) -> list[Finding]:
    """Findings in the order of the probes. Raises TemplateRefused where even one user message is refused."""
    modes = _modes(Texts(worker, {}))
    if random := RANDOM.finding(modes[0]):
        return [random]
    findings = []
    for one in (*REWRITES, *NOTES):
        seen = [(mode, finding) for mode in modes if (finding := one.finding(mode))]
        if seen:
            labels = [_label(mode) for mode, _ in seen] if len(seen) < len(modes) else []
            findings.append(msgspec.structs.replace(seen[0][1], when=tuple(labels)))
    return findings


def _modes(plain: Texts) -> list[Texts]:
    """Template arguments to probe with: one set, unless the switch makes a difference."""
    plain.of([user(1)])
    thinking = [user(1), answer(1, thought=True), user(2)]
    history = thinking if plain.takes(thinking) else [user(1)]
    switched = [plain.under({_SWITCH: wanted}) for wanted in (True, False)]
    return switched if len({mode.of(history, ask=True) for mode in switched}) > 1 else [plain]


def _label(texts: Texts) -> str:
    return ", ".join(f"{name}={str(value).lower()}" for name, value in texts.arguments.items())
