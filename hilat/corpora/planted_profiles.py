"""Which codes go together: patient profiles, base rates, and the coding rules between codes.

A note's profile is drawn first. A code named by the profile comes with the profile's rate; every other code with a base
rate chosen so that its overall rate is its prevalence (before the rules): b = (p - sum of w * rate) / (1 - sum of w),
the sums over the profiles that name the code, w being the profile's share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hilat.corpora.planted_codes import BY_CODE, INNER_EVIDENCE, PLANTED_CODES


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of stay. share: of the notes; service: the heading's service; rates: code -> share of its notes."""

    name: str
    share: float
    service: str
    complaint: str
    rates: dict[str, float]


def _profile(name: str, share: float, service: str, complaint: str, rates: str) -> Profile:
    pairs = (item.split("=") for item in rates.split())
    return Profile(name, share, service, complaint, {code: float(rate) for code, rate in pairs})


PROFILES: tuple[Profile, ...] = (
    _profile(
        "cardiac surgery", 0.13, "CARDIOTHORACIC", "Chest pain",
        "36.15=.60 39.61=.90 414.01=.78 88.56=.35 37.22=.22 37.23=.14 401.9=.62 272.4=.38 272.0=.26 427.31=.40 "
        "285.1=.22 99.04=.16 424.0=.18 410.71=.12 511.9=.12 88.72=.12 96.71=.26 38.91=.14 V15.82=.12 412=.12 "
        "250.00=.24",
    ),
    _profile(
        "acute coronary", 0.10, "CARDIOLOGY", "Chest pressure",
        "410.71=.36 414.01=.82 88.56=.46 37.22=.34 37.23=.18 401.9=.56 272.4=.36 272.0=.24 305.1=.16 412=.22 "
        "V45.81=.24 428.0=.30 250.00=.24",
    ),
    _profile(
        "heart failure", 0.14, "MEDICINE", "Shortness of breath",
        "428.0=.82 427.31=.52 424.0=.16 V58.61=.26 88.72=.16 511.9=.10 585.9=.08 403.90=.17 412=.14 V45.81=.13 496=.14",
    ),
    _profile(
        "sepsis", 0.11, "MEDICINE", "Fever and confusion",
        "038.9=.40 995.92=.44 518.81=.36 38.93=.56 38.91=.20 584.9=.48 276.2=.28 599.0=.30 486=.20 96.72=.18 96.71=.18 "
        "287.5=.12 96.6=.24 276.1=.10",
    ),
    _profile(
        "respiratory", 0.14, "MEDICINE", "Respiratory distress",
        "518.81=.58 96.72=.36 96.71=.32 96.6=.46 507.0=.24 486=.28 33.24=.24 496=.22 38.93=.44 38.91=.18 99.15=.18 "
        "305.1=.10",
    ),
    _profile(
        "renal", 0.08, "MEDICINE", "Nausea and malaise",
        "585.9=.12 403.90=.42 39.95=.38 584.9=.42 276.2=.20 285.9=.22 428.0=.32 38.93=.36 250.00=.26 276.1=.12",
    ),
    _profile(
        "bleeding", 0.09, "MEDICINE", "Black stools",
        "285.1=.38 45.13=.34 99.04=.36 38.93=.28 287.5=.11 530.81=.18 V58.61=.14 285.9=.05 99.15=.20",
    ),
    _profile("general", 0.21, "MEDICINE", "Weakness", "96.04=.20 311=.10 244.9=.12 599.0=.16 530.81=.16"),
)  # fmt: skip

EXCLUSIONS: tuple[tuple[str, str], ...] = (
    ("403.90", "401.9"),
    ("96.72", "96.71"),
    ("96.72", "96.04"),
    ("96.71", "96.04"),
    ("305.1", "V15.82"),
    ("36.15", "V45.81"),
    ("37.23", "37.22"),
    ("507.0", "486"),
    ("272.0", "272.4"),
)
"""Pairs that no note has both of: where both are drawn, the second is left out (for the last one, either)."""


@cache
def base_rates() -> NDArray[np.float64]:
    """The rate (K,) of each code in the profiles that do not name it, in the order of `PLANTED_CODES`."""
    rates = np.zeros(len(PLANTED_CODES))
    for k, entry in enumerate(PLANTED_CODES):
        naming = [profile for profile in PROFILES if entry.code in profile.rates]
        inside = sum(profile.share * profile.rates[entry.code] for profile in naming)
        rates[k] = (_raised(entry.code) - inside) / (1.0 - sum(profile.share for profile in naming))
    rates.setflags(write=False)
    return rates


_RAISED = {
    "401.9": 0.41,
    "96.71": 0.175,
    "96.04": 0.155,
    "272.4": 0.18,
    "272.0": 0.125,
    "V15.82": 0.059,
    "486": 0.094,
    "37.22": 0.076,
}


def _raised(code: str) -> float:
    """The rate to draw at, so that what the exclusions take away still leaves the prevalence."""
    return _RAISED.get(code, BY_CODE[code].prevalence * _LOWERED.get(code, 1.0))


_LOWERED = {"585.9": 0.36, "038.9": 0.58}  # these are also implied by 403.90 and 995.92


def draw_codes(rng: np.random.Generator) -> tuple[Profile, frozenset[str]]:
    """A profile and the codes of one note: at least one code, rules kept (see `EXCLUSIONS`, `INNER_EVIDENCE`)."""
    shares = np.cumsum([profile.share for profile in PROFILES])
    base = base_rates()
    while True:
        profile = PROFILES[int(np.searchsorted(shares[:-1], rng.random() * shares[-1], side="right"))]
        draws = rng.random(len(PLANTED_CODES))
        codes = {
            entry.code
            for entry, draw, rate in zip(PLANTED_CODES, draws, base, strict=True)
            if draw < profile.rates.get(entry.code, float(rate))
        }
        codes |= {implied for code, implied in INNER_EVIDENCE.items() if code in codes}
        for kept, dropped in EXCLUSIONS:
            if kept in codes and dropped in codes:
                codes.discard(kept if kept == "272.0" and rng.random() < 0.5 else dropped)
        if codes:
            return profile, frozenset(codes)
