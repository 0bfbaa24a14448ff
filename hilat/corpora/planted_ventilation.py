"""The hard pair 96.71 and 96.72: the same wording, told apart only by how long the patient was ventilated.

Durations are mostly in words, or glued to their unit ("36hours", "7d"), so that they survive a reader that drops words
without a letter. The few with a bare number keep the unit apart: hours below 96, days from 96 hours on.
"""

from __future__ import annotations

SHORT_DURATIONS = (
    "two days", "one day", "three days", "36hours", "forty eight hours", "a day and a half", "twelve hours", "48h",
    "thirty six hours", "2d", "18hrs", "3d", "under four days", "seventy two hours", "twenty hours", "less than a day",
    "36 hours", "18 hours", "72 hours",
)  # fmt: skip
LONG_DURATIONS = (
    "five days", "seven days", "six days", "eight days", "7d", "ten days", "nine days", "two weeks", "over a week",
    "eleven days", "120h", "more than four days", "twelve days", "144hours", "a full week", "5d", "9d", "7 days",
    "11 days",
)  # fmt: skip
_STATES = (
    "ventilated for {}", "mechanically ventilated for {}", "on the ventilator for {}", "extubated after {}",
    "kept on the vent for {}", "weaned from the ventilator after {}", "intubated and ventilated for {}",
)  # fmt: skip
_THERAPIES = (
    "mechanical ventilation for {}", "ventilator support for {}", "invasive ventilation for {}", "vent support for {}"
)  # fmt: skip


def _forms(durations: tuple[str, ...], days: tuple[str, ...]) -> dict[str, str]:
    states = [pattern.format(duration) for duration in durations for pattern in _STATES]
    states += [f"extubated on POD{day}" for day in days]
    therapies = [pattern.format(duration) for duration in durations for pattern in _THERAPIES]
    return {"state": "|".join(states), "therapy": "|".join(therapies)}


SHORT_VENTILATION = _forms(SHORT_DURATIONS, ("1", "2", "3"))
LONG_VENTILATION = _forms(LONG_DURATIONS, ("5", "6", "8", "9"))
