"""A certificate as text for people."""

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Sequence

from app.certify.certificate import Boundaries, Certificate, Finding, Parity, Reuse

_HEADINGS = {
    "rewrite": "Rewrites: old text changes when the conversation goes on",
    "change": "Old text changes when something else changes",
    "note": "Not in the prompt as it was said",
    "refusal": "Conversations that are refused",
}
_EXAMPLES = 6
"""Tokens shown per line."""


def report(certificate: Certificate) -> str:
    return "\n".join(_lines(certificate))


def _lines(certificate: Certificate) -> Iterator[str]:
    yield f"{certificate.model}, chat template: {certificate.chat_template} (vLLM {certificate.vllm_version})"
    for kind, heading in _HEADINGS.items():
        findings = [finding for finding in certificate.findings if finding.kind == kind]
        if findings:
            yield f"\n{heading}"
        for finding in findings:
            yield from _finding(finding)
    if certificate.append_only:
        yield "\nAppend-only: no probe shows a rewrite."
    yield ""
    yield from _boundaries(certificate.boundaries)
    if certificate.reuse:
        yield ""
        yield from _reuse(certificate.reuse)
    yield ""
    yield _verdict(certificate)
    if certificate.parity:
        yield from (f"  {difference}" for difference in certificate.parity.differences)


def _finding(finding: Finding) -> Iterator[str]:
    when = f" (with {' or '.join(finding.when)})" if finding.when else ""
    yield f"  {finding.name}{when}"
    yield from textwrap.wrap(finding.sentence, 100, initial_indent="    ", subsequent_indent="    ")
    if finding.rewritten is not None:
        yield f"    In a typical prompt {_share(finding.rewritten)} comes after the first change."
    if finding.before or finding.after:
        yield f"      before  {_quoted(finding.before)}"
        yield f"      after   {_quoted(finding.after)}"


def _share(share: float) -> str:
    return f"{share:.0%}" if share >= 0.01 else "less than 1%"


def _boundaries(found: Boundaries | None) -> Iterator[str]:
    if found is None:
        yield "Boundaries: the ends of messages, each of which vLLM encodes by itself"
        return
    added = len(found.safe) + len(found.unsafe)
    yield f"Boundaries: at {len(found.safe)} of {added} added tokens a prompt can be continued"
    yield f"  in use  {' '.join(map(_quoted, found.in_use)) or 'none'}"
    reasons = defaultdict(list)
    for unsafe in found.unsafe:
        reasons[unsafe.reason].append(unsafe.token)
    for reason, tokens in reasons.items():
        shown = " ".join(map(_quoted, tokens[:_EXAMPLES])) + (" …" if len(tokens) > _EXAMPLES else "")
        yield f"  not safe, {len(tokens)}: {reason}: {shown}"


def _reuse(scenarios: Sequence[Reuse]) -> Iterator[str]:
    yield f"{'What a next turn can reuse':<50}{'tokens':>8}{'stands':>8}{'known':>8}  path"
    for one in scenarios:
        if one.refused is not None:
            yield f"  {one.scenario:<48}  refused: {one.refused}"
            continue
        stands, known = one.standing / one.tokens, one.known / one.tokens
        yield f"  {one.scenario:<48}{one.tokens:>8}{stands:>8.0%}{known:>8.0%}  {one.path}"
    yield "  stands: equal from the start, which vLLM's KV cache can have; known: not tokenized again"


def _verdict(certificate: Certificate) -> str:
    if certificate.refusal is not None:
        return f"NOTHING CAN BE CONTINUED: {certificate.refusal}"
    parity = certificate.parity
    assert parity is not None
    return f"{'EXACT' if certificate.exact else 'NOT EXACT'}: {_parity(parity)}"


def _parity(parity: Parity) -> str:
    refused = f" ({parity.refused} more were refused by both)" if parity.refused else ""
    if not parity.turns:
        return f"no turn could be compared{refused}"
    differences = f"{parity.different or 'no'} difference{'s' if parity.different > 1 else ''}"
    paths = ", ".join(f"{count} {path}" for path, count in parity.paths.items())
    return (
        f"{differences} in {parity.turns} turns of random conversations, seed {parity.seed}{refused}\n"
        f"  {paths}; {parity.known / max(1, parity.tokens):.0%} of their tokens known"
    )


def _quoted(text: str) -> str:
    return repr(text)
