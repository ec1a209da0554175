"""How right a semantic cache is: precision and hit rate on QQP and BANKING77, and where its weights come from.

    python -m benchmarks.semantic_cache --data FOLDER          prints the figures
    python -m benchmarks.semantic_cache --data FOLDER --fit    makes gateway/caches/weights.json anew first

FOLDER has `qqp/pairs.json` (a list of {text_a, text_b, label}) and `banking77/banking_data/{train,test}.csv`.
QQP's first half trains `strict`, without the pairs that share a question with the second half; the second half, the dev
half, is asked. BANKING77's train set trains `intent` and is what is kept; its test set is asked. The embedder is the
mesh's own default.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from gateway.caches.entry import Entry
from gateway.caches.index import Index, packed
from gateway.caches.likeness import NAMES, features
from gateway.caches.verify import APART, APART_STRICTLY, verify
from gateway.caches.verify import weights as weights_of
from gateway.caches.words import question
from inference.embedders.static import StaticEmbedder
from services.config import CacheSettings, InferenceSettings

WEIGHTS: Final = Path(__file__).parents[1] / "gateway" / "caches" / "weights.json"
COSINE_MIN: Final = 0.65
_RIDGE: Final = 3.0
_FOLDS: Final = 5
_PLAIN: Final = (0.8, 0.85, 0.9, 0.95, 0.97)
Matrix = np.ndarray[Any, np.dtype[np.float64]]


class Pair(NamedTuple):
    """Two questions, and whether people said that they ask the same."""

    one: str
    other: str
    same: bool


class Hit(NamedTuple):
    """A question that was given another one's answer."""

    asked: int
    kept: int
    score: float


class Vectors:
    """The mesh's default embedder, in this process."""

    def __init__(self) -> None:
        self._embedder = StaticEmbedder(InferenceSettings(), ThreadPoolExecutor(1))
        self._embedder._load()

    def __call__(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.asarray(self._embedder._embed(texts).vectors)


class Classes:
    """Questions that are joined by pairs."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._parent: dict[str, str] = {}
        for pair in pairs:
            self._parent[self.of(pair.one)] = self.of(pair.other)

    def of(self, text: str) -> str:
        """One question that stands for all that are joined with it."""
        while (parent := self._parent.setdefault(text, text)) != text:
            self._parent[text] = text = self._parent[parent]
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--fit", action="store_true", help="make the weights anew")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    pairs = _qqp(given.data)
    train, dev = _halves(pairs)
    kept, asked = (_banking(given.data, name) for name in ("train", "test"))
    vectors, told = Vectors(), {}
    if given.fit:
        told["fit"] = fit(train, kept, vectors)
    settings = CacheSettings()
    told["qqp pairs, dev half"] = on_pairs(dev, vectors, settings.strict_score_min)
    told["qqp as a cache, dev half"] = on_cache(dev, vectors, settings)
    told["banking77"] = on_intents(kept, asked, vectors, settings)
    if given.json:
        print(json.dumps(told, indent=2))
        return
    for name, figures in told.items():
        print(name)
        for key, value in figures.items():
            print(f"  {key:44} {value}")


def on_pairs(pairs: Sequence[Pair], vectors: Vectors, score_min: float) -> dict[str, Any]:
    """One side is kept, the other asked, and nothing else is there."""
    cosines = _cosines(pairs, vectors)
    started = time.perf_counter()
    scores = np.array([verify(*pair[:2], cosine).score for pair, cosine in zip(pairs, cosines, strict=True)])
    micros = (time.perf_counter() - started) / len(pairs) * 1e6
    same = np.array([pair.same for pair in pairs])
    served = (scores >= score_min) & (cosines >= COSINE_MIN)
    figures = {
        "pairs": len(pairs),
        "verification, µs a pair": round(micros),
        f"score >= {score_min}": _told(served, same),
    }
    return figures | {f"cosine >= {least} alone": _told(cosines >= least, same) for least in _PLAIN}


def on_cache(pairs: Sequence[Pair], vectors: Vectors, settings: CacheSettings) -> dict[str, Any]:
    """All first sides are kept, all other sides asked; a hit may be on any of them.

    Right is what people joined, or the same text; a hit on a question that nobody compared it with is judged by nobody.
    """
    kept = list(dict.fromkeys(pair.one for pair in pairs))
    asked = [pair.other for pair in pairs]
    classes = Classes(pair for pair in pairs if pair.same)
    labels = {frozenset(pair[:2]): pair.same for pair in pairs}
    right = wrong = unjudged = repeated = 0
    for hit in serve(kept, asked, vectors, settings, settings.strict_score_min, strictly=True):
        one, other = asked[hit.asked], kept[hit.kept]
        if " ".join(one.casefold().split()) == " ".join(other.casefold().split()):
            repeated += 1
        elif classes.of(one) == classes.of(other):
            right += 1
        elif frozenset((one, other)) in labels:
            wrong += 1
        else:
            unjudged += 1
    hits = right + wrong + unjudged + repeated
    return {
        "kept / asked": f"{len(kept)} / {len(asked)}",
        "hits": f"{hits}, {hits / len(asked):.1%} of what was asked",
        "the same text": repeated,
        "right / wrong by people": f"{right} / {wrong}: precision {right / max(1, right + wrong):.3f}",
        "judged by nobody": unjudged,
        "precision with the same texts": round((right + repeated) / max(1, right + wrong + repeated), 3),
    }


def on_intents(
    kept: Sequence[tuple[str, str]], asked: Sequence[tuple[str, str]], vectors: Vectors, settings: CacheSettings
) -> dict[str, Any]:
    """A hit is right if both questions have the same intent."""
    figures: dict[str, Any] = {"kept / asked": f"{len(kept)} / {len(asked)}"}
    texts = [text for text, _ in kept]
    for name, score_min in (("intent", settings.intent_score_min), ("strict", settings.strict_score_min)):
        strictly = name == "strict"
        served = serve(texts, [text for text, _ in asked], vectors, settings, score_min, strictly=strictly)
        right = sum(asked[hit.asked][1] == kept[hit.kept][1] for hit in served)
        share = len(served) / len(asked)
        precision = right / max(1, len(served))
        figures[f"{name}: score >= {score_min}"] = (
            f"precision {precision:.4f} ({right} of {len(served)}), hits {share:.1%}"
        )
    return figures


def serve(
    kept: Sequence[str],
    asked: Sequence[str],
    vectors: Vectors,
    settings: CacheSettings,
    score_min: float,
    *,
    strictly: bool,
) -> list[Hit]:
    """What the cache would give to each question: of the nearest, the one that is verified best."""
    index = Index()
    for number, vector in enumerate(vectors(kept)):
        index.put(Entry(str(number), "", 0, kept[number], "static", packed(vector.tobytes())))
    hits = []
    for number, vector in enumerate(vectors(asked)):
        near = index.near(packed(vector.tobytes()), "static", settings.candidates_count_max, COSINE_MIN)
        scored = [
            (verify(asked[number], entry.question, cosine, strictly=strictly).score, entry.id) for entry, cosine in near
        ]
        score, entry_id = max(scored, default=(0.0, ""))
        if entry_id and score > 0 and score >= score_min:
            hits.append(Hit(number, int(entry_id), score))
    return hits


def fit(pairs: Sequence[Pair], intents: Sequence[tuple[str, str]], vectors: Vectors) -> dict[str, Any]:
    """Logistic regression over pairs that nothing tells apart: `strict` over QQP's, `intent` over BANKING77's.

    Scores that thresholds are chosen by are of pairs that were left out of the regression they come from.
    """
    classes = Classes(pairs)
    strict, told_strict = _fitted(
        pairs, _cosines(pairs, vectors), [classes.of(pair.one) for pair in pairs], APART_STRICTLY, len(pairs)
    )
    near, cosines = _near(intents, vectors)
    intent, told_intent = _fitted(near, cosines, [pair.one for pair in near], APART, len({pair.one for pair in near}))
    kept = {
        level: {name: round(float(weight), 5) for name, weight in zip(NAMES, weights, strict=True)}
        for level, weights in (("strict", strict), ("intent", intent))
    }
    WEIGHTS.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    weights_of.cache_clear()
    return {"strict, least score by precision": told_strict, "intent, least score by precision": told_intent}


def _fitted(
    pairs: Sequence[Pair], cosines: Matrix, groups: Sequence[str], apart: Iterable[str], asked_count: int
) -> tuple[Matrix, dict[float, str]]:
    """Weights, and the least score of the best pair of each question by the precision that it gives."""
    rows = np.array([_row(pair.one, pair.other, cosine) for pair, cosine in zip(pairs, cosines, strict=True)])
    same = np.array([float(pair.same) for pair in pairs])
    usable = ~rows[:, [NAMES.index(name) for name in APART]].any(axis=1) & (cosines >= COSINE_MIN)
    served = usable & ~rows[:, [NAMES.index(name) for name in apart]].any(axis=1)
    numbers = {name: number for number, name in enumerate(sorted(set(groups)))}
    folds = np.array([numbers[group] % _FOLDS for group in groups])
    scores = np.zeros(len(pairs))
    for fold in range(_FOLDS):
        weights = _regressed(rows[usable & (folds != fold)], same[usable & (folds != fold)])
        scores[folds == fold] = 1 / (1 + np.exp(-rows[folds == fold] @ weights))
    scores[~served] = 0.0
    best: dict[str, int] = {}
    for number, pair in enumerate(pairs):
        if scores[number] > scores[best.setdefault(pair.one, number)]:
            best[pair.one] = number
    chosen = np.array(list(best.values()))
    told = {least: _least(scores[chosen], same[chosen], least, asked_count) for least in (0.95, 0.96, 0.97, 0.98)}
    return _regressed(rows[usable], same[usable]), told


def _least(scores: Matrix, same: Matrix, precision: float, asked_count: int) -> str:
    order = np.argsort(-scores)
    reached = np.cumsum(same[order]) / np.arange(1, len(order) + 1)
    counts = np.flatnonzero(reached >= precision)
    count = int(counts.max()) + 1 if len(counts) else 0
    return f"{scores[order[count - 1]]:.3f} ({count} hits, {count / asked_count:.1%})" if count else "none"


def _near(intents: Sequence[tuple[str, str]], vectors: Vectors) -> tuple[list[Pair], Matrix]:
    """Every fourth question of what is kept, with those that are nearest to it among the others."""
    asked = intents[::4]
    kept = [each for number, each in enumerate(intents) if number % 4]
    cosines = vectors([text for text, _ in asked]) @ vectors([text for text, _ in kept]).T
    nearest = np.argsort(-cosines, axis=1)[:, : CacheSettings().candidates_count_max]
    found = [(number, int(other)) for number, others in enumerate(nearest) for other in others]
    pairs = [Pair(asked[one][0], kept[other][0], asked[one][1] == kept[other][1]) for one, other in found]
    return pairs, np.array([min(1.0, float(cosines[each])) for each in found])


def _regressed(rows: Matrix, same: Matrix) -> Matrix:
    """Newton's method on standardised features, with a ridge on all but the bias."""
    mean, deviation = rows.mean(0), np.maximum(rows.std(0), 0.05)
    mean[0], deviation[0] = 0.0, 1.0
    scaled = (rows - mean) / deviation
    ridge = np.full(rows.shape[1], _RIDGE)
    ridge[0] = 1e-9
    weights = np.zeros(rows.shape[1])
    for _ in range(15):
        likely = 1 / (1 + np.exp(-scaled @ weights))
        hessian = (scaled * (likely * (1 - likely))[:, None]).T @ scaled + np.diag(ridge)
        weights += np.linalg.solve(hessian, scaled.T @ (same - likely) - ridge * weights)
    plain: Matrix = weights / deviation
    plain[0] = weights[0] - (weights * mean / deviation)[1:].sum()
    return plain


def _row(one: str, other: str, cosine: float) -> list[float]:
    return features(question(one), question(other), float(cosine))


def _cosines(pairs: Sequence[Pair], vectors: Vectors) -> Matrix:
    ones, others = vectors([pair.one for pair in pairs]), vectors([pair.other for pair in pairs])
    cosines: Matrix = np.minimum((ones * others).sum(axis=1).astype(np.float64), 1.0)
    return cosines


def _told(served: np.ndarray[Any, Any], same: np.ndarray[Any, Any]) -> str:
    hits, right = int(served.sum()), int((served & same).sum())
    recall = right / max(1, int(same.sum()))
    return f"precision {right / max(1, hits):.3f} ({right} of {hits}), hits {hits / len(same):.1%}, recall {recall:.1%}"


def _qqp(folder: Path) -> list[Pair]:
    stored = json.loads((folder / "qqp" / "pairs.json").read_text(encoding="utf-8"))
    return [Pair(each["text_a"], each["text_b"], bool(each["label"])) for each in stored]


def _halves(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """The half that trains, without what the dev half's questions are joined with; and the dev half."""
    middle = len(pairs) // 2
    classes = Classes(pairs)
    asked = {classes.of(pair.one) for pair in pairs[middle:]}
    return [pair for pair in pairs[:middle] if classes.of(pair.one) not in asked], list(pairs[middle:])


def _banking(folder: Path, name: str) -> list[tuple[str, str]]:
    path = folder / "banking77" / "banking_data" / f"{name}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
