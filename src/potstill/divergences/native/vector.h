// Sixteen floats at a time: exp and log good to about 1e-7 relative, and 16-bit floats in and out.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace potstill {

using Floats = __m512;

static inline Floats all(float value) { return _mm512_set1_ps(value); }

// exp(x) = 2^n exp(r), |r| <= log(2)/2; the polynomial is the Taylor series cut where its rest is below one rounding.
static inline Floats exp16(Floats x) {
    x = _mm512_max_ps(all(-110.0f), x);  // 0 from there on, -inf included; a NaN, as the second operand, stays
    const Floats n = _mm512_roundscale_ps(_mm512_mul_ps(x, all(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    Floats r = _mm512_fnmadd_ps(n, all(0.693359375f), x);  // log(2) in two parts: the first times n is exact
    r = _mm512_fnmadd_ps(n, all(-2.12194440e-4f), r);
    Floats sum = all(1.0f / 5040);
    sum = _mm512_fmadd_ps(sum, r, all(1.0f / 720));
    sum = _mm512_fmadd_ps(sum, r, all(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, r, all(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, r, all(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, r, all(0.5f));
    sum = _mm512_fmadd_ps(sum, r, all(1.0f));
    sum = _mm512_fmadd_ps(sum, r, all(1.0f));
    return _mm512_scalef_ps(sum, n);
}

// log(x) for normal x > 0: x = 2^n (1 + f) with 1 + f in [0.75, 1.5), log(1 + f) = 2 atanh(f / (2 + f)).
static inline Floats log16(Floats x) {
    const Floats mantissa = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    const Floats n = _mm512_getexp_ps(_mm512_div_ps(x, mantissa));
    const Floats f = _mm512_sub_ps(mantissa, all(1.0f));
    const Floats u = _mm512_div_ps(f, _mm512_add_ps(f, all(2.0f)));
    const Floats v = _mm512_mul_ps(u, u);
    Floats sum = all(2.0f / 9);
    sum = _mm512_fmadd_ps(sum, v, all(2.0f / 7));
    sum = _mm512_fmadd_ps(sum, v, all(2.0f / 5));
    sum = _mm512_fmadd_ps(sum, v, all(2.0f / 3));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(sum, v), u, _mm512_add_ps(u, u));
    return _mm512_fmadd_ps(n, all(0.693147181f), sum);
}

static inline Floats tanh16(Floats x) {
    const Floats grown = exp16(_mm512_add_ps(x, x));
    return _mm512_sub_ps(all(1.0f), _mm512_div_ps(all(2.0f), _mm512_add_ps(grown, all(1.0f))));
}

static inline __m256i to_bf16(Floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }

static inline Floats from_bf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

static inline __m256i to_half(Floats x) {
    const Floats bounded = _mm512_max_ps(_mm512_min_ps(x, all(65504.0f)), all(-65504.0f));
    return _mm512_cvtps_ph(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline Floats from_half(__m256i x) { return _mm512_cvtph_ps(x); }

}  // namespace potstill
