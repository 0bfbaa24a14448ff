"""What the words a method ranks high tell about which code was explained, over a corpus of (note, code) pairs.

(C) code-identification information: mutual information of code and attended word; (D) usable information: how well a
probe that sees only the attended words names the code of admissions it was not trained on; and word-code tables. They
say that the words are typical of the code, which a reader would find plausible; see `NOTE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import BernoulliNB

from explain.attribution import Attribution
from explain.keywords import NOTE
from explain.lemmas import word_parts
from explain.mutual_information import entropy_bits, npmi, pmi_bits
from explain.result import Value, defined, undefined
from hilat.admissions import HilatError

Array = NDArray[np.float64]
Labels = Literal["observed", "uniform"]
Shuffle = Literal["corpus", "admission"]
Probe = Literal["logistic", "naive_bayes"]


@dataclass(frozen=True, slots=True)
class Attended:
    """The words a method attends to for one (note, code) pair: different folded words and their shares, which sum to 1.

    These are words of notes: treat what holds them as the notes themselves.
    """

    hadm_id: str
    code: str
    words: tuple[str, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.shares) or len(set(self.words)) != len(self.words):
            raise HilatError(
                f"admission {self.hadm_id}, code {self.code}: {len(self.words)} attended words and {len(self.shares)} shares; "
                "expected different words, one share each. Build it with attended_words"
            )
        if self.words and (min(self.shares) <= 0 or abs(sum(self.shares) - 1) > 1e-6):
            raise HilatError(
                f"admission {self.hadm_id}, code {self.code}: the shares of its attended words sum to "
                f"{sum(self.shares):.6g}; expected positive shares that sum to 1. Build it with attended_words"
            )


@dataclass(frozen=True, slots=True)
class IdentificationInformation:
    """(C). bits: plug-in I(code; attended word). null_bits: its mean when the codes are shuffled. bits_above_null: the
    difference. share: bits_above_null over the codes' entropy. p: (c + 1) / (R + 1). empty: pairs without an attended
    word, left out."""

    bits: Value
    null_bits: Value
    bits_above_null: Value
    code_entropy_bits: Value
    share: Value
    p: Value
    pairs: int
    admissions: int
    codes: int
    words: int
    empty: int
    shuffles: int
    note: str = NOTE

    def values(self) -> dict[str, Value]:
        """The measures by name, for a table of metrics."""
        return {
            "identification_mi_bits": self.bits,
            "identification_null_bits": self.null_bits,
            "identification_bits_above_null": self.bits_above_null,
            "identification_code_entropy_bits": self.code_entropy_bits,
            "identification_share": self.share,
            "identification_p": self.p,
        }


@dataclass(frozen=True, slots=True, eq=False)
class UsableInformation:
    """(D). bits: H_V(Y) - H_V(Y|X) on held-out admissions; label_bits and conditional_bits: its two terms.

    pvi (N,): pointwise information of each pair in bits, NaN for a pair whose code no training admission has; bits is their
    mean. hadm_ids, codes: of the N pairs, in the order given. coverage: share of the pairs with a value.
    """

    bits: Value
    label_bits: Value
    conditional_bits: Value
    pvi: Array
    hadm_ids: tuple[str, ...]
    codes: tuple[str, ...]
    coverage: Value
    folds: int
    note: str = NOTE

    def by_code(self) -> dict[str, Value]:
        """The mean pointwise information of each code's pairs, in bits."""
        found: dict[str, Value] = {}
        codes = np.array(self.codes, dtype=object)
        for code in sorted(set(self.codes)):
            values = self.pvi[codes == code]
            values = values[np.isfinite(values)]
            found[code] = (
                defined(float(values.mean())) if len(values) else undefined("no training admission has the code")
            )
        return found

    def values(self) -> dict[str, Value]:
        """The measures by name, for a table of metrics."""
        return {
            "usable_bits": self.bits,
            "usable_label_bits": self.label_bits,
            "usable_conditional_bits": self.conditional_bits,
            "usable_coverage": self.coverage,
        }


@dataclass(frozen=True, slots=True)
class WordCode:
    """How a word goes with a code among attended words. joint: pairs (admissions) of the code that attend to the word;
    word_count, code_count: words attended to that are this one, or for this code, over all pairs."""

    code: str
    word: str
    joint: int
    word_count: int
    code_count: int
    pmi_bits: float
    npmi: float
    note: str = NOTE


def attended_words(attribution: Attribution, words: Sequence[str], k: int = 10) -> Attended:
    """The k highest words with a positive score, folded, equal ones added up.

    words: W note words, one per score. A word that the model did not read has score 0 and cannot be among them. Numbers and
    marks without a letter are left out before the k are taken. Raises HilatError when words and scores differ in number.
    """
    if len(words) != len(attribution.scores):
        raise HilatError(
            f"admission {attribution.hadm_id}, code {attribution.code} has {len(attribution.scores)} scores and {len(words)} "
            "words; expected one word per score. Cut the words from the note by word_spans"
        )
    mass: dict[str, float] = {}
    taken = 0
    for w in attribution.top(len(words)):
        word = " ".join(word_parts(words[w]))
        if taken == k or attribution.scores[w] <= 0:
            break
        if any(c.isalpha() for c in word):
            mass[word] = mass.get(word, 0.0) + float(attribution.scores[w])
            taken += 1
    total = sum(mass.values())
    return Attended(attribution.hadm_id, attribution.code, tuple(mass), tuple(share / total for share in mass.values()))


def identification_information(
    pairs: Sequence[Attended],
    *,
    labels: Labels = "observed",
    shuffle: Shuffle = "corpus",
    shuffles: int = 199,
    seed: int = 0,
) -> IdentificationInformation:
    """(C): how many bits of the code's identity one word tells that is drawn by the attention of a pair.

    p(word, code) = p(code) times the mean share of the word among the code's pairs. labels: p(code) as among the pairs, or
    the same for all codes. shuffle: codes are exchanged between all pairs (do the words go with the codes at all?), or
    between the pairs of an admission only (are they this code's words rather than the note's?).

    Raises:
        HilatError: an unknown option, fewer than no shuffles.
    """
    _check("labels", labels, ("observed", "uniform"))
    _check("shuffle", shuffle, ("corpus", "admission"))
    kept = [pair for pair in pairs if pair.words]
    shares, vocabulary = _shares(kept)  # (N, V)
    names, code_of = np.unique([pair.code for pair in kept], return_inverse=True)
    admissions = [pair.hadm_id for pair in kept]
    counts = (len(kept), len(set(admissions)), len(names), len(vocabulary), len(pairs) - len(kept))
    if len(names) < 2:
        reason = f"{len(names)} codes have attended words; information about the code needs two"
        none = undefined(reason)
        return IdentificationInformation(none, none, none, none, none, none, *counts, shuffles=0)
    prior = np.bincount(code_of) / len(code_of) if labels == "observed" else np.full(len(names), 1 / len(names))
    entropy = entropy_bits(prior)
    bits = _word_code_bits(shares, code_of, prior)
    groups = _groups(admissions) if shuffle == "admission" else [np.arange(len(kept))]
    fixed = all(len(set(code_of[group])) < 2 for group in groups)
    if fixed or shuffles < 1:
        none = undefined("no admission has two codes to exchange" if fixed else "no shuffle was asked for")
        return IdentificationInformation(defined(bits), none, none, defined(entropy), none, none, *counts, shuffles=0)
    rng = np.random.default_rng(seed)
    null = np.array([_word_code_bits(shares, _shuffled(code_of, groups, rng), prior) for _ in range(shuffles)])
    above = bits - float(null.mean())
    return IdentificationInformation(
        defined(bits),
        defined(float(null.mean())),
        defined(above),
        defined(entropy),
        defined(above / entropy),
        defined((int((null >= bits - 1e-12).sum()) + 1) / (shuffles + 1)),
        *counts,
        shuffles=shuffles,
    )


def usable_information(
    pairs: Sequence[Attended], *, probe: Probe = "logistic", folds: int = 5, strength: float = 1.0, seed: int = 0
) -> UsableInformation:
    """(D): predictive V-information from the bag of attended words to the code, in bits (Xu et al. 2020, definitions 1-2).

    Each admission is held out once, with all its pairs, from a probe trained on the other folds' admissions; a pair's
    pointwise information is log2 g[x](y) - log2 g[no words](y) (Ethayarajh et al. 2022, equation 4), where without words the
    training frequencies of the codes are the best guess. A lower bound of what the family could use, negative where
    the probe overfits. strength: inverse of the L2 penalty, or the count that naive Bayes adds.

    Raises:
        HilatError: an unknown probe, fewer than two folds, a strength that is not positive.
    """
    _check("probe", probe, ("logistic", "naive_bayes"))
    if folds < 2 or strength <= 0:
        raise HilatError(f"{folds} folds and strength {strength}; expected at least 2 folds and a strength above 0")
    admissions, codes = tuple(pair.hadm_id for pair in pairs), np.array([pair.code for pair in pairs], dtype=object)
    without, given = np.full(len(pairs), np.nan), np.full(len(pairs), np.nan)  # log2 of the code's probability
    different = np.unique(np.array(admissions, dtype=object)) if pairs else np.zeros(0, dtype=object)
    if len(different) < folds or len(set(codes)) < 2:
        reason = f"{len(different)} admissions with {len(set(codes))} codes; {folds} folds need as many, and two codes"
        none = undefined(reason)
        return UsableInformation(none, none, none, without, admissions, tuple(codes), none, folds)
    fold_of = dict(
        zip(np.random.default_rng(seed).permutation(different), np.arange(len(different)) % folds, strict=True)
    )
    fold = np.array([fold_of[hadm_id] for hadm_id in admissions])
    bags = (_shares(pairs)[0] > 0).astype(np.float64).tocsr()  # (N, V)
    for f in range(folds):
        train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        known = np.unique(codes[train])
        test = test[np.isin(codes[test], known)]
        if len(known) < 2 or not len(test):
            continue
        column = np.searchsorted(known, codes[test])
        frequency = np.array([(codes[train] == code).mean() for code in known])
        without[test] = np.log2(frequency[column])
        model = _fitted(probe, strength, bags[train], np.searchsorted(known, codes[train]))
        given[test] = model.predict_log_proba(bags[test])[np.arange(len(test)), column] / np.log(2.0)
    has = np.isfinite(without)
    if not has.any():
        none = undefined("no held-out pair has a code that the training admissions have")
        return UsableInformation(none, none, none, given, admissions, tuple(codes), defined(0.0), folds)
    label, conditional = -float(without[has].mean()), -float(given[has].mean())
    return UsableInformation(
        defined(label - conditional),
        defined(label),
        defined(conditional),
        given - without,
        admissions,
        tuple(codes),
        defined(float(has.mean())),
        folds,
    )


def word_code_table(pairs: Sequence[Attended], *, min_count: int = 5, add: float = 0.0) -> tuple[WordCode, ...]:
    """PMI (bits) and NPMI of every code with the words attended to in at least `min_count` of its pairs, highest NPMI first
    within a code.

    Counts are of (pair, word), over all pairs and words. add: what each cell gains first (0.5 tames rare pairs).
    """
    kept = [pair for pair in pairs if pair.words]
    if not kept:
        return ()
    shares, vocabulary = _shares(kept)
    names, code_of = np.unique([pair.code for pair in kept], return_inverse=True)
    counts = (_code_matrix(code_of, len(names)).T @ (shares > 0).astype(np.float64)).toarray().T  # (V, K)
    pmi, normalised = pmi_bits(counts, add), npmi(counts, add)
    by_word, by_code = counts.sum(axis=1), counts.sum(axis=0)
    rows = [
        WordCode(str(names[k]), vocabulary[v], int(counts[v, k]), int(by_word[v]), int(by_code[k]), float(pmi[v, k]), float(normalised[v, k]))
        for v, k in zip(*np.nonzero(counts >= max(1, min_count)), strict=True)
    ]  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (row.code, -row.npmi, row.word)))


def _fitted(probe: Probe, strength: float, bags: sparse.csr_matrix, column: NDArray[np.int64]) -> Any:
    model = LogisticRegression(C=strength, max_iter=2000) if probe == "logistic" else BernoulliNB(alpha=strength)
    return model.fit(bags, column)


def _shares(pairs: Sequence[Attended]) -> tuple[sparse.csr_matrix, list[str]]:
    """Shares of words (N, V) and the V words, sorted."""
    vocabulary = sorted({word for pair in pairs for word in pair.words})
    place = {word: v for v, word in enumerate(vocabulary)}
    rows = np.repeat(np.arange(len(pairs)), [len(pair.words) for pair in pairs])
    columns = np.array([place[word] for pair in pairs for word in pair.words], dtype=np.int64)
    values = np.array([share for pair in pairs for share in pair.shares], dtype=np.float64)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(pairs), len(vocabulary))), vocabulary


def _code_matrix(code_of: NDArray[np.int64], codes: int) -> sparse.csr_matrix:
    """(N, K), 1 at each pair's code."""
    return sparse.csr_matrix((np.ones(len(code_of)), (np.arange(len(code_of)), code_of)), shape=(len(code_of), codes))


def _word_code_bits(shares: sparse.csr_matrix, code_of: NDArray[np.int64], prior: Array) -> float:
    per_pair = prior / np.bincount(code_of, minlength=len(prior))
    joint = (_code_matrix(code_of, len(prior)).T @ shares).tocoo()  # (K, V), sums of shares
    mass = joint.data * per_pair[joint.row]
    by_word = np.bincount(joint.col, weights=mass, minlength=joint.shape[1])
    return max(0.0, float((mass * np.log2(mass / (prior[joint.row] * by_word[joint.col]))).sum()))


def _groups(names: Sequence[str]) -> list[NDArray[np.int64]]:
    places: dict[str, list[int]] = {}
    for n, name in enumerate(names):
        places.setdefault(name, []).append(n)
    return [np.array(found, dtype=np.int64) for found in places.values()]


def _shuffled(
    code_of: NDArray[np.int64], groups: Sequence[NDArray[np.int64]], rng: np.random.Generator
) -> NDArray[np.int64]:
    shuffled = code_of.copy()
    for group in groups:
        shuffled[group] = code_of[rng.permutation(group)]
    return shuffled


def _check(what: str, given: str, expected: tuple[str, ...]) -> None:
    if given not in expected:
        raise HilatError(f"{what} is {given!r}; expected one of {', '.join(expected)}. Choose one of them")
