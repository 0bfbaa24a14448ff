"""An explanation in a notebook: the admission's page, the same rendering as in a report, in a frame of its own.

`explain.Explanation` finds `html` by the entry point `hilat.display`, since what explains must not import what draws.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape

from reports.build import RunLabel
from reports.maker import PageMaker
from reports.page import ReportPage
from reports.render import Neighbours, render_page

if TYPE_CHECKING:
    from explain.explanation import Explanation
    from explain.table import Explained

HEIGHT = 760  # pixels of the frame
# The page's script runs in an origin of its own: it reaches neither the notebook nor the network. It may save files
# (scores, verdicts) and print; without allow-same-origin nothing else is open to it.
SANDBOX = "allow-scripts allow-downloads allow-modals"
# The page's link past its lists would lead to the notebook's own address. No note holds it, since its "<" and ">" are escaped.
SKIP_LINK = '<a class="skip" href="#note">Skip to the note</a>\n'


def html(explanation: Explanation) -> Markup:
    """The markup of an explanation for a notebook. It holds the note: clear a notebook's outputs before passing it on."""
    return frame(page_of(explanation))


def page_of(explanation: Explanation) -> ReportPage:
    """The page of an explanation: attention as fill, the method as underline, description words and cues as in a report.

    The note counts as clinical text: nothing says that it was invented.
    """
    from explain.cues import CaseOptions  # here, since it loads torch, which a page needs not
    from explain.keywords import keyword_sets

    one, book, origin = explanation.explained, explanation.book, explanation.origin
    sentences: tuple[str, ...] = ()
    if one.scored and "attention" not in one.methods:
        one = _with_no_attention(one)
        sentences = (
            f"This model pools chunks and has no attention per word: nothing is filled, and the underline is "
            f"{explanation.method.replace('_', ' ')}.",
        )
    maker = PageMaker(
        known={one.hadm_id: explanation.admission},
        book=book,
        label=RunLabel(origin.name, origin.threshold, notes=sentences),
        chunks=origin.chunks,
        keywords=keyword_sets(book.restricted_to(one.scored)),
        options=CaseOptions(),
        drawn=(explanation.method,),
    )
    return maker.page(one)


def frame(page: ReportPage, height: int = HEIGHT) -> Markup:
    """An `<iframe>` that holds the whole page, sandboxed, without links to other pages."""
    document = render_page(page, Neighbours(index=None)).replace(SKIP_LINK, "")
    shaded = sum(bool(view.scores) for view in page.codes)
    title = f"Admission {page.hadm_id}: note with {shaded} explained code{'' if shaded == 1 else 's'}"
    return Markup(
        '<iframe sandbox="{}" title="{}" width="100%" height="{}" style="border:1px solid #d9d9d6" srcdoc="{}"></iframe>'
    ).format(SANDBOX, title, height, escape(document))


def _with_no_attention(one: Explained) -> Explained:
    """The same with attention 0 on every word, so that a page can draw the other method."""
    (words,) = one.methods.values()
    nothing = replace(
        words, scores=np.zeros_like(words.scores), signed=False, target="attention", outside=np.zeros(len(one.scored))
    )
    return replace(one, methods={"attention": nothing, **one.methods})
