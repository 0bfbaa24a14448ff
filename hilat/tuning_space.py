"""A search for settings, read from YAML: the base, which settings vary and how, how many trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from hilat.admissions import HilatError
from hilat.settings import TrainingSettings, read_yaml_settings, settings_from

if TYPE_CHECKING:
    import optuna

_KEYS = ("settings", "space", "trials", "seed", "prune_after")
_RANGE_KEYS = ("low", "high", "log", "step")
# What must be the same in all trials, or a comparison of their measures would mean nothing, or changes no measure at all.
FIXED = ("seed", "best", "evaluate_every", "patience", "threshold", "keep_checkpoints", "checkpointing", "precision")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from low to high, both included. whole: whole numbers, `step` apart. log: drawn evenly in their logarithm."""

    low: float
    high: float
    whole: bool
    log: bool = False
    step: int = 1


@dataclass(frozen=True, slots=True)
class Choices:
    """Any of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Search:
    """What is tried. base: the settings of all trials, but for those in `space`.

    trials: how many in all. seed: of the sampler; the trials themselves start from the base's seed. prune_after: finished
    trials before one may be cut short whose best measure so far is worse than the median of theirs at that step; None: never.
    """

    base: TrainingSettings
    space: Mapping[str, Range | Choices]
    trials: int = 20
    seed: int = 0
    prune_after: int | None = 5

    def __post_init__(self) -> None:
        if not self.space:
            raise HilatError(
                "the search has an empty space; expected one setting or more that varies, such as "
                "`learning_rate: {low: 1e-5, high: 1e-3, log: true}`. Add them under `space:`"
            )
        for name, value, least in (("trials", self.trials, 1), ("seed", self.seed, 0), ("prune_after", self.prune_after, 0)):  # fmt: skip
            if not (value is None and name == "prune_after") and (type(value) is not int or value < least):
                raise HilatError(
                    f"the search has {name} {value!r}; expected a whole number of {least} or more. Correct it"
                )

    @property
    def direction(self) -> Literal["minimize", "maximize"]:
        """Of the measure `best`: "maximize", but for the loss."""
        return "minimize" if self.base.best == "loss" else "maximize"

    def to_dict(self) -> dict[str, Any]:
        """What makes the search this one, as it is kept in its folder; the number of trials may grow."""
        space = {name: _as_dict(given) for name, given in self.space.items()}
        return {
            "settings": self.base.to_dict(),
            "space": space,
            "seed": self.seed,
            "prune_after": self.prune_after,
        }


def read_search(path: Path, overrides: Mapping[str, Any] | None = None, trials: int | None = None) -> Search:
    """The search in a YAML file; `overrides` (flags) win over its base settings, `trials` over its number.

    Raises:
        HilatError: no such file, not YAML, an unknown key or setting, a setting that may not vary, an empty space, a range
            or choice that the setting cannot take.
    """
    given = read_yaml_settings(path)
    _known(given, _KEYS, str(path))
    base = given.get("settings")
    if not isinstance(base, dict | None):
        raise HilatError(f"{path}: settings are a {type(base).__name__}; expected settings by name. Correct them")
    base = {**(base or {}), **(overrides or {})}
    settings = settings_from(base, origin=f"{path}: settings")
    space = given.get("space")
    if not isinstance(space, dict | None):
        raise HilatError(f"{path}: space is a {type(space).__name__}; expected settings by name. Correct it")
    both = sorted(str(name) for name in space or () if name in base)
    if both:
        raise HilatError(
            f"{path} both sets and varies {', '.join(both)}; expected one of the two. Take them out of settings or space"
        )
    read = {
        str(name): _dimension(str(name), value, settings, f"{path}: space") for name, value in (space or {}).items()
    }
    extra: dict[str, Any] = {name: given[name] for name in ("trials", "seed", "prune_after") if name in given}
    if trials is not None:
        extra["trials"] = trials
    return Search(settings, read, **extra)


def drawn(search: Search, trial: optuna.trial.BaseTrial) -> TrainingSettings:
    """The settings of a trial: the base with what the sampler draws for it; asked again, the same.

    Raises:
        HilatError: settings that do not go together.
    """
    values: dict[str, Any] = {}
    for name, given in search.space.items():
        if isinstance(given, Choices):
            values[name] = trial.suggest_categorical(name, given.values)
        elif given.whole:
            values[name] = trial.suggest_int(name, int(given.low), int(given.high), step=given.step, log=given.log)
        else:
            values[name] = trial.suggest_float(name, given.low, given.high, log=given.log)
    return with_values(search, values)


def with_values(search: Search, values: Mapping[str, Any]) -> TrainingSettings:
    """The base settings with these values."""
    return settings_from({**search.base.to_dict(), **values}, origin="the trial")


def _dimension(name: str, value: Any, base: TrainingSettings, origin: str) -> Range | Choices:
    hints = get_type_hints(TrainingSettings)
    if name not in hints:
        may = ", ".join(known for known in hints if known not in FIXED)
        raise HilatError(f"{origin} has unknown setting {name}; those that may vary: {may}. Correct the name")
    if name in FIXED:
        raise HilatError(
            f"{origin} varies {name}, which must be the same in all trials; expected it among `settings`. Move it there"
        )

    def typed(one: Any) -> Any:
        return getattr(settings_from({**base.to_dict(), name: one}, origin=f"{origin}, {name}"), name)

    if isinstance(value, list):
        values = tuple(typed(one) for one in value)
        if not values or len(set(values)) != len(values):
            raise HilatError(f"{origin}, {name}: {len(values)} choices; expected one or more, each once. Correct them")
        return Choices(values)
    if not isinstance(value, dict):
        raise HilatError(
            f"{origin}, {name}: a {type(value).__name__}; expected a list of choices, or {{low: ..., high: ...}}. Correct it"
        )
    _known(value, _RANGE_KEYS, f"{origin}, {name}")
    kinds = get_args(hints[name]) or (hints[name],)
    if not {"low", "high"} <= value.keys() or not {int, float} & set(kinds):
        raise HilatError(
            f"{origin}, {name}: expected low and high for a number, a list of choices for anything else. Correct it"
        )
    made = Range(
        typed(value["low"]), typed(value["high"]), float not in kinds, value.get("log", False), value.get("step", 1)
    )
    _check(made, f"{origin}, {name}", stepped="step" in value)
    return made


def _check(given: Range, origin: str, *, stepped: bool) -> None:
    if type(given.log) is not bool or type(given.step) is not int or given.step < 1:
        raise HilatError(
            f"{origin}: log {given.log!r}, step {given.step!r}; expected true or false, and a whole number. Correct them"
        )
    if given.low > given.high or (given.log and given.low <= 0):
        raise HilatError(
            f"{origin}: from {given.low} to {given.high}{' with log' if given.log else ''}; expected low up to high, "
            "and above 0 with log. Correct them"
        )
    if stepped and (given.log or not given.whole or (given.high - given.low) % given.step):
        raise HilatError(
            f"{origin}: step {given.step} from {given.low} to {given.high}; expected whole numbers without log, and high "
            "reached in whole steps. Correct it"
        )


def _as_dict(given: Range | Choices) -> dict[str, Any]:
    if isinstance(given, Choices):
        return {"choices": list(given.values)}
    return {"low": given.low, "high": given.high, "log": given.log, "step": given.step}


def _known(given: Mapping[Any, Any], known: tuple[str, ...], origin: str) -> None:
    unknown = sorted(str(name) for name in given if name not in known)
    if unknown:
        raise HilatError(
            f"{origin} has unknown key{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}; "
            f"known: {', '.join(known)}. Correct the name or take it out"
        )
