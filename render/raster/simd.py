"""Eight float32 at a time in numba kernels: LLVM's <8 x float>, which numba itself has no name for.

numba's own vectoriser leaves the rasteriser two to three times slower. `+ - * /` work between vectors, and between a
vector and a float32; all else is a function below. Comparisons never count on NaN: `finite` is there to keep it out.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.typing.templates import ConcreteTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 8
Vector = Any
"""What a kernel's signature calls an eight-lane vector; Python itself never holds one"""

_I32 = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(_I32, LANES)
_FAST = ("contract", "nsz", "arcp", "nnan", "ninf")
_f32 = types.float32

# 2^f for f within ±0.5, highest power first: least relative error of any polynomial of degree 5 (8e-8).
_EXP2 = (1.32764707e-3, 9.67554132e-3, 5.55071328e-2, 2.40221197e-1, 6.93146967e-1, 1.00000007)
_EXP_LIMIT = 87.0  # e^±87 are still normal float32
_SQRT_HALF = 0x3F3504F3  # the bits of sqrt(1/2)
_ONE = 0x3F800000  # the bits of 1
_MANTISSA = 0x007FFFFF
_EXPONENT = 0x7F800000
_LN2 = 0.69314718


class _VectorType(types.Type):
    def __init__(self) -> None:
        super().__init__(name="float32x8")


vector = _VectorType()


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _all(b: Any, x: Any) -> Any:
    """One float in all lanes."""
    nothing = ir.Constant(_FLOATS, ir.Undefined)
    first = b.insert_element(nothing, x, ir.Constant(_I32, 0))
    return b.shuffle_vector(first, nothing, ir.Constant(_INTS, [0] * LANES))


def _floats(value: float) -> Any:
    return ir.Constant(_FLOATS, [float(np.float32(value))] * LANES)


def _ints(value: int) -> Any:
    return ir.Constant(_INTS, [value] * LANES)


def _ints_of(values: Sequence[int]) -> Any:
    return ir.Constant(_INTS, list(values))


def _operator(op: Callable[..., Any], instruction: str) -> None:
    @infer_global(op)
    class _Template(ConcreteTemplate):
        cases = (signature(vector, vector, vector), signature(vector, vector, _f32), signature(vector, _f32, vector))

    def lower(left: Any, right: Any) -> None:
        def emit(_context: Any, b: Any, _signature: Any, args: Sequence[Any]) -> Any:
            x, y = (_all(b, v) if kind is _f32 else v for v, kind in zip(args, (left, right), strict=True))
            return getattr(b, instruction)(x, y, flags=_FAST)

        lower_builtin(op, left, right)(emit)

    for left, right in ((vector, vector), (vector, _f32), (_f32, vector)):
        lower(left, right)


for _op, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_op, _instruction)


def _call(b: Any, name: str, *args: Any) -> Any:
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(args))
    return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.{name}.v8f32"), args)


def _fused(b: Any, x: Any, y: Any, z: Any) -> Any:
    """x y + z; fmuladd and not fma, which is a library call where the machine has no such instruction."""
    return _call(b, "fmuladd", x, y, z)


def _polynomial(b: Any, x: Any, coefficients: Sequence[float]) -> Any:
    value = _floats(coefficients[0])
    for c in coefficients[1:]:
        value = _fused(b, value, x, _floats(c))
    return value


def _least(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered("<", x, y, flags=_FAST), x, y)


def _greatest(b: Any, x: Any, y: Any) -> Any:
    return b.select(b.fcmp_ordered(">", x, y, flags=_FAST), x, y)


def _address(context: Any, b: Any, array_type: Any, array: Any, index: Any, kind: Any) -> Any:
    data = context.make_array(array_type)(context, b, array).data
    return b.bitcast(b.gep(data, [index]), kind.as_pointer())


def _intrinsic(function: Callable[..., Any]) -> Any:
    return intrinsic(function)


def _unary(emit: Callable[[Any, Any], Any]) -> Any:
    def typed(_typing: Any, x: Any) -> Any:
        return vector(vector), lambda _context, b, _signature, args: emit(b, args[0])

    typed.__name__ = emit.__name__
    return _intrinsic(typed)


def _binary(emit: Callable[[Any, Any, Any], Any]) -> Any:
    def typed(_typing: Any, x: Any, y: Any) -> Any:
        return vector(vector, vector), lambda _context, b, _signature, args: emit(b, *args)

    typed.__name__ = emit.__name__
    return _intrinsic(typed)


def _exp(b: Any, x: Any) -> Any:
    inside = _greatest(b, _least(b, x, _floats(_EXP_LIMIT)), _floats(-_EXP_LIMIT))
    scaled = b.fmul(inside, _floats(1 / _LN2))
    whole = _call(b, "rint", scaled)
    # The remainder from x itself and ln 2 in two parts: from `scaled` it would carry the rounding of a large product.
    rest = _fused(b, whole, _floats(-0.693359375), inside)
    rest = b.fmul(_fused(b, whole, _floats(2.12194440e-4), rest), _floats(1 / _LN2))
    power = b.shl(b.fptosi(whole, _INTS), _ints(23))
    value = b.bitcast(b.add(b.bitcast(_polynomial(b, rest, _EXP2), _INTS), power), _FLOATS)
    return b.select(b.fcmp_ordered(">", x, _floats(-_EXP_LIMIT)), value, _floats(0))


def _exp_coarse(b: Any, x: Any) -> Any:
    inside = _greatest(b, _least(b, x, _floats(_EXP_LIMIT)), _floats(-_EXP_LIMIT))
    whole = _call(b, "rint", b.fmul(inside, _floats(1 / _LN2)))
    rest = b.fmul(_fused(b, whole, _floats(-_LN2), inside), _floats(1 / _LN2))
    power = b.shl(b.fptosi(whole, _INTS), _ints(23))
    return b.bitcast(b.add(b.bitcast(_polynomial(b, rest, _EXP2), _INTS), power), _FLOATS)


def _log(b: Any, x: Any) -> Any:
    shifted = b.add(b.bitcast(x, _INTS), _ints(_ONE - _SQRT_HALF))
    power = b.sitofp(b.sub(b.ashr(shifted, _ints(23)), _ints(127)), _FLOATS)
    near_one = b.bitcast(b.add(b.and_(shifted, _ints(_MANTISSA)), _ints(_SQRT_HALF)), _FLOATS)
    f = b.fsub(near_one, _floats(1))
    s = b.fdiv(f, b.fadd(f, _floats(2)))
    series = _polynomial(b, b.fmul(s, s), [1 / k for k in (9, 7, 5, 3, 1)])  # ln(1 + f) = 2 s (1 + s²/3 + ...)
    return _fused(b, power, _floats(_LN2), b.fmul(b.fadd(s, s), series))


def _softplus(b: Any, x: Any) -> Any:
    away = _least(b, x, b.fneg(x))  # -|x|
    e = _exp(b, away)
    s = b.fdiv(e, b.fadd(e, _floats(2)))
    series = _polynomial(b, b.fmul(s, s), [1 / k for k in range(17, 0, -2)])
    return _fused(b, b.fadd(s, s), series, _greatest(b, x, _floats(0)))


def _finite(b: Any, x: Any) -> Any:
    bits = b.and_(b.bitcast(x, _INTS), _ints(_EXPONENT))  # by bits: comparisons here may assume that there is no NaN
    return b.select(b.icmp_unsigned("!=", bits, _ints(_EXPONENT)), x, _floats(0))


def _sqrt(b: Any, x: Any) -> Any:
    return _call(b, "sqrt", x)


def _floor(b: Any, x: Any) -> Any:
    return _call(b, "floor", x)


def _ceil(b: Any, x: Any) -> Any:
    return _call(b, "ceil", x)


def _pairs(b: Any, x: Any, y: Any) -> Any:
    both = [_ints_of([2 * i + odd for i in range(LANES)]) for odd in (0, 1)]
    return b.fadd(b.shuffle_vector(x, y, both[0]), b.shuffle_vector(x, y, both[1]), flags=_FAST)


exp = _unary(_exp)
"""e^x to 2e-7 of it; 0 below -87, e^87 above 87"""
exp_coarse = _unary(_exp_coarse)
"""The same to 4e-7 where the machine fuses products and sums, else to 8e-6, and never 0: a third shorter"""
log = _unary(_log)
"""Natural logarithm of a positive normal number, to 2e-7"""
softplus = _unary(_softplus)
"""ln(1 + e^x) to 3e-7 of it"""
sqrt = _unary(_sqrt)
floor = _unary(_floor)
ceil = _unary(_ceil)
finite = _unary(_finite)
"""x, or 0 for NaN and infinity"""
least = _binary(_least)
greatest = _binary(_greatest)
pairs = _binary(_pairs)
"""Sums of neighbours: x0 + x1, x2 + x3, ..., y0 + y1, ..."""


@_intrinsic
def load(_typing: Any, array: Any, index: Any) -> Any:
    """load(array, index): eight floats of a flat float32 array, from any index on."""

    def emit(context: Any, b: Any, sig: Any, args: Sequence[Any]) -> Any:
        value = b.load(_address(context, b, sig.args[0], args[0], args[1], _FLOATS))
        value.align = 4
        return value

    return vector(array, types.intp), emit


@_intrinsic
def store(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """store(array, index, vector): likewise."""

    def emit(context: Any, b: Any, sig: Any, args: Sequence[Any]) -> Any:
        b.store(args[2], _address(context, b, sig.args[0], args[0], args[1], _FLOATS)).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@_intrinsic
def store_ints(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """store_ints(array, index, vector): its whole part, as the bits of eight int32 in an array of float32."""

    def emit(context: Any, b: Any, sig: Any, args: Sequence[Any]) -> Any:
        whole = b.fptosi(args[2], _INTS)
        b.store(whole, _address(context, b, sig.args[0], args[0], args[1], _INTS)).align = 4
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@_intrinsic
def store_bytes(_typing: Any, array: Any, index: Any, value: Any) -> Any:
    """store_bytes(array, index, vector): its whole part, 0 to 255, as eight bytes."""

    def emit(context: Any, b: Any, sig: Any, args: Sequence[Any]) -> Any:
        small = ir.VectorType(ir.IntType(8), LANES)
        narrow = b.trunc(b.fptosi(args[2], _INTS), small)
        b.store(narrow, _address(context, b, sig.args[0], args[0], args[1], small)).align = 1
        return context.get_dummy_value()

    return types.void(array, types.intp, vector), emit


@_intrinsic
def every(_typing: Any, x: Any) -> Any:
    """every(float32): the same in all lanes."""
    return vector(_f32), lambda _context, b, _signature, args: _all(b, args[0])


@_intrinsic
def count(_typing: Any) -> Any:
    """count(): 0 1 2 3 4 5 6 7."""
    return vector(), lambda _context, _b, _signature, _args: ir.Constant(_FLOATS, [float(i) for i in range(LANES)])


@_intrinsic
def at_least(_typing: Any, x: Any, threshold: Any) -> Any:
    """at_least(x, threshold): x where it reaches the threshold, else 0."""

    def emit(_context: Any, b: Any, _signature: Any, args: Sequence[Any]) -> Any:
        return b.select(b.fcmp_ordered(">=", args[0], args[1]), args[0], _floats(0))

    return vector(vector, vector), emit


@_intrinsic
def where_at_most(_typing: Any, value: Any, x: Any, limit: Any) -> Any:
    """where_at_most(value, x, limit): value where x <= limit, else 0."""

    def emit(_context: Any, b: Any, _signature: Any, args: Sequence[Any]) -> Any:
        return b.select(b.fcmp_ordered("<=", args[1], args[2]), args[0], _floats(0))

    return vector(vector, vector, vector), emit


@_intrinsic
def total(_typing: Any, x: Any) -> Any:
    """total(x): the sum of the lanes, float32."""

    def emit(_context: Any, b: Any, _signature: Any, args: Sequence[Any]) -> Any:
        value, nothing = args[0], ir.Constant(_FLOATS, ir.Undefined)
        for step in (4, 2, 1):
            turned = ir.Constant(_INTS, [(i + step) % LANES for i in range(LANES)])
            value = b.fadd(value, b.shuffle_vector(value, nothing, turned), flags=_FAST)
        return b.extract_element(value, ir.Constant(_I32, 0))

    return _f32(vector), emit


@_intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:
    """prefetch(array, index): this element will be read soon."""

    def emit(context: Any, b: Any, sig: Any, args: Sequence[Any]) -> Any:
        place = _address(context, b, sig.args[0], args[0], args[1], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [place.type, _I32, _I32, _I32])
        function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
        b.call(function, [place] + [ir.Constant(_I32, v) for v in (0, 3, 1)])  # to read, keep in all caches, data
        return context.get_dummy_value()

    return types.void(array, types.intp), emit
