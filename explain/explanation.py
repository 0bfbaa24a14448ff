"""What `explain` returns: the attributions, and what a page of them needs, so that a notebook can show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import overload

from explain.attribution import Attribution
from explain.table import Explained
from hilat.admissions import Admission, CodeBook

# Packages above this one say here how an explanation looks: an entry point of this group with the name "html" is called
# with the Explanation and returns markup. So nothing here imports what draws it.
DISPLAY = "hilat.display"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which model explained. name: its folder. threshold: how the thresholds were chosen. chunks: C, also empty ones."""

    name: str
    threshold: str
    chunks: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Explanation(Sequence[Attribution]):
    """One admission explained by one method: a sequence of Attribution, one per code, in the order asked for.

    A notebook shows it as the admission's page. Its repr holds no word of the note.

    admission: what was explained; for a bare text its plain form (LF line ends, no NUL). explained: everything the model
    said of it, with the method's scores and, where the model has attention, attention's.
    """

    attributions: tuple[Attribution, ...]
    method: str
    admission: Admission
    explained: Explained
    book: CodeBook
    origin: Origin

    @overload
    def __getitem__(self, index: int) -> Attribution: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Attribution, ...]: ...

    def __getitem__(self, index: int | slice) -> Attribution | tuple[Attribution, ...]:
        return self.attributions[index]

    def __len__(self) -> int:
        return len(self.attributions)

    def __repr__(self) -> str:
        codes = ", ".join(one.code for one in self.attributions[:10])
        more = f", and {len(self) - 10} more" if len(self) > 10 else ""
        read = int((self.explained.word_chunk >= 0).sum())
        return (
            f"<Explanation of admission {self.admission.hadm_id} by {self.method}: {len(self)} of {len(self.book)} codes"
            f"{f' ({codes}{more})' if codes else ''}, {read} of {len(self.explained.word_spans)} words read>"
        )

    def _repr_html_(self) -> str | None:
        """The admission's page for a notebook; None, which means the repr, where nothing is installed that draws it."""
        found = sorted(entry_points(group=DISPLAY, name="html"), key=lambda point: point.value)
        return str(found[0].load()(self)) if found else None
