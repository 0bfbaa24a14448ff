"""Our ConText beside medspaCy's, on sentences whose answer was written by hand.

    python -m benchmarks.context_backends

Needs medspaCy, which on Python 3.11 does not live beside hilat's other requirements. An environment of its own is enough:
`python3 -m venv ms; ms/bin/pip install medspacy` and, in the checkout, `ms/bin/python -m benchmarks.context_backends`.
The sentences were written for this comparison; [ ] marks the target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from explain import context, context_medspacy
from explain.context import KINDS, ContextCue

N, U, H, F, Y = KINDS  # negated, uncertain, historical, family, hypothetical
Answer = Callable[..., list[tuple[ContextCue, ...]]]
SENTENCES: tuple[tuple[str, set[str]], ...] = (
    ("No evidence of [pulmonary embolism] on the scan.", {N}),
    ("She denies chest pain or [palpitations].", {N}),
    ("The wound was without [erythema].", {N}),
    ("Cultures were negative for [MRSA].", {N}),
    ("[Endocarditis] was ruled out by echocardiogram.", {N}),
    ("The patient was never [intubated].", {N}),
    ("[Bronchoscopy] was not performed.", {N}),
    ("He declined [dialysis].", {N}),
    ("No cough, but [wheezing] throughout.", set()),
    ("No change in the [effusion].", set()),
    ("Gram negative [bacteremia] grew from two bottles.", set()),
    ("[Cholecystectomy] was done without complications.", set()),
    ("Possible [pneumonia] at the right base.", {U}),
    ("Concern for [sepsis] on arrival.", {U}),
    ("Cannot exclude [abscess].", {U}),
    ("r/o [MI]", {U}),
    ("The differential included [cholangitis].", {U}),
    ("Findings may represent [aspiration].", {U}),
    ("[Stroke] was considered.", {U}),
    ("History of [stroke] with no residual weakness.", {H}),
    ("Prior [pneumonia] two years ago.", {H}),
    ("s/p [appendectomy] as a teenager", {H}),
    ("[DVT] in the past.", {H}),
    ("Prior to surgery he had [chest pain].", set()),
    ("Mother had [breast cancer].", {F}),
    ("[CAD] in his father.", {F}),
    ("Family history of [diabetes].", {F}),
    ("No family history of [colon cancer].", {N, F}),
    ("Lives with his daughter; has [gout].", set()),
    ("Return for [fever] above 38.5.", {Y}),
    ("Call if you have [bleeding].", {Y}),
    ("Heparin for prevention of [DVT].", {Y}),
    ("Acute [renal failure] resolved with fluids.", set()),
    ("Admitted with [pancreatitis].", set()),
)  # fmt: skip


def answers(context_of: Answer, sentences: Sequence[tuple[str, set[str]]]) -> list[set[str]]:
    """The kinds that a backend gives for each sentence's target."""
    found = []
    for marked, _ in sentences:
        start, end = marked.index("["), marked.index("]") - 1
        text = marked.replace("[", "").replace("]", "")
        (cues,) = context_of(text, [(start, end)], "en", within=[(0, len(text))])
        found.append({cue.kind for cue in cues})
    return found


def main() -> None:
    """Print both backends' answers where they differ or are wrong, and how often each is right."""
    own, other = answers(context.context_of, SENTENCES), answers(context_medspacy.context_of, SENTENCES)
    for (sentence, right), a, b in zip(SENTENCES, own, other, strict=True):
        if not a == b == right:
            print(f"{sentence:60} by hand: {_said(right):18} own: {_said(a):18} medspacy: {_said(b)}")
    n, wanted = len(SENTENCES), [right for _, right in SENTENCES]
    print(f"both backends give the same kinds: {sum(a == b for a, b in zip(own, other, strict=True))} of {n}")
    for name, given in (("own", own), ("medspacy", other)):
        pairs = list(zip(given, wanted, strict=True))
        exact = sum(a == right for a, right in pairs)
        missed, extra = sum(len(right - a) for a, right in pairs), sum(len(a - right) for a, right in pairs)
        print(f"{name}: all kinds right in {exact} of {n}; {missed} kinds missed, {extra} too many")


def _said(kinds: set[str]) -> str:
    return ", ".join(kind for kind in KINDS if kind in kinds) or "nothing"


if __name__ == "__main__":
    main()
