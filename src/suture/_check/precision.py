"""What the numbers of an output are: float64, float32 inside, printed digits, pieces, noise.

Everything here looks at values that have been evaluated already.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from suture._check.findings import Precision, PrecisionKind
from suture._noise import FINE, SHORT, most_noise, noise_of
from suture._types import Array

# Bits of the significand, and how far below them the longest of many values may stay: one of 30
# values has its last two bits clear in all but 4^-30 of cases.
_BITS: tuple[tuple[PrecisionKind, int], ...] = (("bfloat16", 8), ("float16", 11), ("float32", 24))
_SPARE = 1

# A float64 is printed in full with 17 digits. One in a thousand survives 14, so that of several
# values with at most 12 digits none is there by chance.
_MOST_DIGITS = 12

# Seven digits are 10^7 numbers a decade, float32 has 2^23·log2(10) = 2.8e7 there: three of four
# do not survive.
_MOST_DIGITS_SINGLE = 7

# Values of an output that are read as text and bits.
_READ = 60

# On a line of 17 points a function with fewer values than this consists of pieces that are wider
# than two points: a difference sees either nothing or one jump.
_FEW = 8

# Share of equal neighbors below 1e-4 of an input's size that makes a function flat between jumps:
# one of 14 neighbors may have a jump between them.
_FLAT = 0.9

# Estimates from seven points scatter by a factor of two.
_AGREE = 4.0

# Noise relative to the largest output. Rounding of a long float64 calculation stays below 1e-12:
# a sum of 10^4 terms is off by 1e-14 to 1e-12. That of float32, 6e-8, spreads as far.
_ROUNDING = 1e-12
_SINGLE = (2e-9, 2e-6)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Values of K outputs.

    Attributes:
        y: (K,) f(x).
        repeats: (R, K) f(x) again.
        tables: each of shape (7, K): equally spaced points, in growing spacings.
        line: (L, K) equally spaced over ±0.3 of the inputs' sizes, and a few farther ones.
        beside: (L, K) 1e-9 beside them, NaN where that was not evaluated.
        ties: (K,) share of equal values among neighboring steps of one input, below 1e-4 of its
            size; of inputs that the output depends on, 1 where there is none.
        swept: (N, K) values with one input displaced.
        size: (K,) the magnitude that noise is compared with: of the largest output of its leaf.
    """

    y: Array
    repeats: Array
    tables: tuple[Array, ...]
    line: Array
    beside: Array
    ties: Array
    swept: Array
    size: Array


def classify(evidence: Evidence) -> list[Precision]:
    """Return the precision of each output."""
    noise = _noise(evidence)
    return [_classify(evidence, o, float(noise[o])) for o in range(len(evidence.y))]


def _noise(evidence: Evidence) -> Array:
    """Return the noise of each output.

    The largest on which two spacings in a row agree: where a float64 term is added to a float32
    one, the shortest spacing sees the former alone. Else from the shortest spacing that tells.
    """
    found = np.full(len(evidence.y), np.nan)
    bound = np.full(len(evidence.y), np.nan)
    agreed = np.full(len(evidence.y), np.nan)
    last = np.full(len(evidence.y), np.nan)
    for table in evidence.tables:
        noise, verdict = noise_of(table)
        noise = np.where(verdict == FINE, noise, np.nan)
        with np.errstate(invalid="ignore"):
            same = (noise <= _AGREE * last) & (last <= _AGREE * noise)
        agreed = np.where(same, np.fmax(agreed, noise), agreed)
        found = np.where(np.isnan(found), noise, found)
        bound = np.where(np.isnan(bound) & (verdict != SHORT), most_noise(table), bound)
        last = noise
    found = np.where(np.isnan(agreed), found, agreed)
    found = np.where(np.isnan(found), bound, found)
    return np.where(np.isfinite(found), found, 0.0)


def _classify(evidence: Evidence, o: int, noise: float) -> Precision:
    y = evidence.y[o]
    values = np.concatenate(
        [part[:, o] for part in (evidence.line, evidence.swept, *evidence.tables)]
    )
    values = values[np.isfinite(values)]
    if len(values) <= 1:  # f(x) alone, in the middle of the line
        return Precision("unknown")
    repeats = evidence.repeats[:, o]
    if np.any(repeats != y):
        draws = np.concatenate([repeats, evidence.tables[0][:, o]])
        return Precision("random", float(np.nanstd(draws, ddof=1)))
    values = np.unique(values)
    if len(values) == 1:
        return Precision("constant")
    return _of_values(evidence, o, values, noise)


def _of_values(evidence: Evidence, o: int, values: Array, noise: float) -> Precision:
    y = evidence.y[o]
    ties = float(evidence.ties[o])
    flat = ties >= _FLAT and _is_flat_elsewhere(evidence, o)
    line = evidence.line[:, o]
    jump = float(np.median(np.diff(values)))
    if flat and len(np.unique(line[np.isfinite(line)])) <= _FEW:
        return Precision("piecewise constant", quantum=jump)
    read = values[:: max(1, len(values) // _READ)]
    known = _lattice(read) or _format(read)
    if known is not None:
        return dataclasses.replace(known, noise=max(known.noise, _unit_noise(known, y)))
    if ties > 0 and len(values) >= _FEW and (quantum := _quantum(values)):
        return Precision("quantized", quantum / math.sqrt(12), quantum=quantum)
    if flat:
        return Precision("quantized", jump / math.sqrt(12), quantum=jump)
    relative = noise / evidence.size[o] if evidence.size[o] else 0.0
    if relative <= _ROUNDING:
        return Precision("float64", noise)
    if _SINGLE[0] <= relative <= _SINGLE[1] and ties > 0:
        return Precision("float32", noise)
    return Precision("noisy", noise)


def _is_flat_elsewhere(evidence: Evidence, o: int) -> bool:
    """Whether the output is flat also where it has another value: not so a dead ReLU."""
    line, beside = evidence.line[:, o], evidence.beside[:, o]
    other = np.isfinite(line) & np.isfinite(beside) & (line != evidence.y[o])
    if not other.any():
        return False
    return bool(np.mean(line[other] == beside[other]) >= 0.5)


def _unit_noise(precision: Precision, y: float) -> float:
    """Return the noise of a last digit of y: uniform, 1/√12 of its unit."""
    if precision.kind == "digits" and y:
        return float(10.0 ** (math.floor(math.log10(abs(y))) + 1 - precision.digits)) / 12**0.5
    bits = dict(_BITS).get(precision.kind)
    return 0.0 if bits is None else abs(y) * 2.0**-bits / math.sqrt(3)


def _lattice(values: Array) -> Precision | None:
    """Return printed digits or rounded decimals, if all values have few of them."""
    # A float32 survives nine digits, so that fewer must be asked of those.
    single = bool(np.all(np.float32(values) == values))
    most = _MOST_DIGITS_SINGLE if single else _MOST_DIGITS
    texts = [f"{abs(v):.{most - 1}e}" for v in values]
    if len(values) < _FEW or any(
        not _reads_as(text, v) for text, v in zip(texts, values, strict=True)
    ):
        return None
    mantissas = [
        text.partition("e")[0].replace(".", "").rstrip("0") for text in texts if float(text)
    ]
    exponents = [int(text.partition("e")[2]) for text in texts if float(text)]
    lengths = np.array([len(mantissa) for mantissa in mantissas])
    decimals = lengths - 1 - np.array(exponents)
    digits, places = int(lengths.max()), int(decimals.max())
    quantum = 10.0**-places
    # Printed with k digits, nine of ten values need k; rounded to a place, nine of ten need that.
    fixed = float(np.mean(decimals == places)) - float(np.mean(lengths == digits))
    if fixed > 0 or (fixed == 0 and digits < 4):
        return Precision("quantized", quantum / math.sqrt(12), digits, quantum)
    return Precision("digits", 0.0, digits, quantum)


def _reads_as(text: str, value: float) -> bool:
    """Whether a text is the value, or becomes it in float32."""
    return float(text) == abs(value) or float(np.float32(text)) == abs(value)


def _format(values: Array) -> Precision | None:
    """Return the floating format whose significands the values fill."""
    if len(values) < _FEW:
        return None
    significands = np.frexp(values)[0] * 2.0**53
    integers = np.abs(significands).astype(np.int64)
    integers = integers[integers > 0]
    lengths = 53 - np.log2((integers & -integers).astype(float))
    longest = int(lengths.max(initial=0))
    for kind, bits in _BITS:
        if bits - _SPARE <= longest <= bits and float(np.mean(lengths >= bits - 3)) > 0.5:
            return Precision(kind)
    return None


def _quantum(values: Array) -> float:
    """Return the spacing of the grid that all values are on, 0 if there is none."""
    gaps = np.diff(values)
    quantum = float(gaps.min())
    multiples = gaps / quantum
    # Beyond a million times the quantum, rounding hides whether a gap is a multiple of it.
    if multiples.max() > 1e6 or np.abs(multiples - np.round(multiples)).max() > 1e-3:
        return 0.0
    return quantum
