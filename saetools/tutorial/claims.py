"""Printing results so that they read the same on every machine.

Training amplifies the last bit of a number, and machines differ in it. A notebook therefore
prints rounded values that stand clear of a rounding boundary, and for a result of training the
value that it was found to have, with the tolerance within which it was found again.
"""

import math

from torch import Tensor


def rounded(value: float | Tensor, digits: int = 2, *, margin: float = 0.1) -> str:
    """`value` with `digits` decimals, if its last digit can be trusted.

    A value that stands nearer than `margin` units of the last digit, in [0, 0.5), to a rounding
    boundary is refused.

    Example:
        >>> rounded(0.3333, 2)
        '0.33'
        >>> rounded(0.12496, 2)
        Traceback (most recent call last):
        ...
        ValueError: 0.12496 stands 0.004 of a last digit from a rounding boundary at 2 digits, \
and another machine may round it the other way: print other digits, or an inequality
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"value must be finite, got {value}")
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin must lie in [0, 0.5), got {margin}")
    position = abs(value) * 10**digits
    distance = abs(position - math.floor(position) - 0.5)
    if distance < margin:
        raise ValueError(
            f"{value:.6g} stands {distance:.3f} of a last digit from a rounding boundary at "
            f"{digits} digits, and another machine may round it the other way: "
            "print other digits, or an inequality"
        )
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # -0.00 and 0.00 are one number


def about(
    value: float | Tensor, expected: float, tolerance: float, *, of: int | None = None
) -> str:
    """`expected` and how far `value` may be from it, if it is no farther.

    A count is given as its range, another number with its tolerance. Print a value in this way
    that varies with the processor; a bound alone, `at_least` or `at_most`, hides the result.

    Args:
        value: what was measured.
        expected: what is printed; an int for a count.
        tolerance: how far value may be from it.
        of: for a count, how many there are.

    Raises:
        AssertionError: if value is farther from expected, or NaN.

    Example:
        >>> about(0.4012, 0.4, 0.03)
        '0.40 ± 0.03'
        >>> about(19, 20, 2, of=32), about(0, 0, 0, of=32)
        ('20 (18 to 22) of 32', '0 of 32')
    """
    number, bound = float(value), tolerance * (1 + 1e-9)  # 0.42 - 0.39 is a little over 0.03
    if isinstance(expected, int):
        low = max(expected - tolerance, 0)
        high = expected + tolerance if of is None else min(expected + tolerance, of)
        words = f"{expected} ({low} to {high})" if tolerance else f"{expected}"
    else:
        digits = max(len(str(x).partition(".")[2]) for x in (expected, tolerance))
        words = f"{expected:.{digits}f} ± {tolerance:.{digits}f}"
    if not abs(number - expected) <= bound:
        raise AssertionError(f"claimed {words}, measured {number:g}")
    return words + (f" of {of}" if of is not None else "")


def at_least(value: float | Tensor, bound: float, *, of: int | None = None) -> str:
    """The words "at least `bound`", if they are true of `value`; choose a bound far from it.

    Raises:
        AssertionError: if value is smaller, or NaN.

    Example:
        >>> at_least(13, 10, of=16)
        'at least 10 of 16'
    """
    return _claim("at least", value, bound, of, float(value) >= bound)


def at_most(value: float | Tensor, bound: float, *, of: int | None = None) -> str:
    """The words "at most `bound`", if they are true of `value`; see `at_least`.

    Example:
        >>> at_most(0, 2, of=32)
        'at most 2 of 32'
    """
    return _claim("at most", value, bound, of, float(value) <= bound)


def _claim(words: str, value: float | Tensor, bound: float, of: int | None, holds: bool) -> str:
    if not holds:
        raise AssertionError(f"claimed {words} {bound}, measured {float(value):g}")
    return f"{words} {bound}" + (f" of {of}" if of is not None else "")
