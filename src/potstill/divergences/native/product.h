// Matrix products of fp32, or of bf16 with fp32 sums, in register tiles of 6 rows by 64 columns.
//
// Both kinds read 32-bit words: one float, or two neighbouring bf16 along the summed axis. The right-hand side comes
// as a panel [words along the summed axis][64]; the left-hand side is read where it lies, one word broadcast at a time,
// so the large matrices of weights are never copied for it.
#pragma once
#include "vector.h"

namespace potstill {

constexpr int64_t PANEL = 64;  // columns of a panel
constexpr int ROWS = 6;        // 6 x 4 sums, 4 columns and a broadcast fit the 32 registers

enum class Kind { fp32, bf16 };

// acc[row][j] += sum_k A(row, k) B[k][16 j .. 16 j + 15]. along_k: neighbours of A lie along k, else along the rows.
template <Kind kind, int rows, bool along_k>
static inline void multiply(int64_t words, const uint32_t* a, int64_t stride, const uint32_t* panel, Floats (&acc)[rows][4]) {
    for (int64_t k = 0; k < words; ++k) {
        Floats columns[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) columns[j] = _mm512_loadu_ps(panel + k * PANEL + 16 * j);
#pragma GCC unroll 6
        for (int row = 0; row < rows; ++row) {
            const uint32_t* word = along_k ? a + row * stride + k : a + k * stride + row;
            const __m512i broadcast = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(word));
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                if constexpr (kind == Kind::fp32)
                    acc[row][j] = _mm512_fmadd_ps(_mm512_castsi512_ps(broadcast), columns[j], acc[row][j]);
                else
                    acc[row][j] = _mm512_dpbf16_ps(acc[row][j], (__m512bh)broadcast, (__m512bh)_mm512_castps_si512(columns[j]));
            }
        }
    }
}

// Where a register tile goes: replaced or added to, as fp32 or bf16. columns: how many of the 64 exist.
template <typename Value, int rows>
static inline void put(const Floats (&acc)[rows][4], Value* c, int64_t stride, int64_t columns, bool add) {
    for (int row = 0; row < rows; ++row)
        for (int j = 0; j < 4; ++j) {
            const int64_t left = columns - 16 * j;
            if (left <= 0) break;
            const __mmask16 mask = left >= 16 ? 0xffff : (__mmask16)((1u << left) - 1);
            Value* place = c + row * stride + 16 * j;
            Floats sum = acc[row][j];
            if constexpr (sizeof(Value) == 4) {
                if (add) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, place));
                _mm512_mask_storeu_ps(place, mask, sum);
            } else {
                if (add) sum = _mm512_add_ps(sum, from_bf16(_mm256_maskz_loadu_epi16(mask, place)));
                _mm256_mask_storeu_epi16(place, mask, to_bf16(sum));
            }
        }
}

}  // namespace potstill
