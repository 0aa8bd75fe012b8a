// The fused linear + divergence on a processor with AVX-512: four matrix products, and between them walks over tiles of
// logits that fit the cache. See chunked.py for the mathematics; the caller splits the vocabulary among threads.
//
// Logits lie transposed, [vocabulary][tokens], in panels of 64 tokens: a vector holds sixteen tokens, so every sum over
// the vocabulary is a running vector and no walk ever adds across a register.
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)

#define POTSTILL_AVX512 1

extern "C" int potstill_tiles_support(int bf16) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    return wide && (!bf16 || __builtin_cpu_supports("avx512bf16"));
}

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "product.h"

namespace potstill {

constexpr int64_t TILE = 192;      // rows of vocabulary at a time: two tiles of 256 tokens take 400 kB of cache
constexpr int64_t DEPTH = 512;     // words of the summed axis at a time: a panel of them is 128 kB
constexpr int BINS = 256;
constexpr float SMALLEST = 1e-37f;  // stands for a probability that underflowed, where its logarithm is taken

// One model's side. head: [vocabulary][words], states: panels [words][64]. store: its logits, as float, or as half
// relative to a reference where `halves`, of tiles that end at `kept` or before; the logits of the others are computed
// again. A tile lies as panels [count][64] from its first entry on, and each entry has `stride` bytes.
struct Side {
    const uint32_t* head;
    int64_t words;
    const float* bias;
    const uint32_t* states;
    char* store;
    int64_t kept;
    int64_t stride;
    float scale;
    float softcap;  // 0: none
    int32_t bf16;   // words are pairs of bf16, else floats
};

// Names of per-token rows are those of chunked.py. All have 64 * panels entries.
struct Problem {
    Side student;
    Side teacher;
    int64_t vocabulary;
    int64_t panels;
    int64_t width;                    // of the student's states
    const uint32_t* states_by_token;  // the student's again, panels of 64 columns: [tokens as words][64]
    int32_t halves;
    int32_t hard;
    int32_t terms;                    // how many mixtures K(x, y); 0: the divergence is made of forward and reverse KL
    int32_t adds;                     // gradients of the head are added to what is there
    float temperature;
    float variation;                  // weight of the total variation
    float weight[2], x[2], y[2];
    const int64_t* targets;
    const int32_t* head_keys;         // the key below which an entry is the head of the teacher (adaptive KL)
    const float *student_top, *student_log, *teacher_top, *teacher_log, *hard_log;
    const float *forward_share, *reverse_share, *offset, *coefficient, *hard_coefficient;
    void* head_gradient;
    float* bias_gradient;
};

enum Stat { MAX_S, SUM_S, MAX_T, SUM_T, GAP_S, GAP_T, SUM_HARD, TARGET, STATS };

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};

template <typename Value>
using Buffer = std::unique_ptr<Value[], Free>;

template <typename Value>
static Buffer<Value> buffer(int64_t count) {
    const size_t bytes = (size_t)(count * (int64_t)sizeof(Value) + 63) / 64 * 64;
    return Buffer<Value>(static_cast<Value*>(std::aligned_alloc(64, bytes)));
}

// Calls `body.template operator()<rows>(row)` over `count` rows, six at a time and then what is left.
template <typename Body>
static inline void by_rows(int64_t count, Body&& body) {
    int64_t row = 0;
    for (; row + ROWS <= count; row += ROWS) body.template operator()<ROWS>(row);
    switch (count - row) {
        case 5: body.template operator()<5>(row); break;
        case 4: body.template operator()<4>(row); break;
        case 3: body.template operator()<3>(row); break;
        case 2: body.template operator()<2>(row); break;
        case 1: body.template operator()<1>(row); break;
        default: break;
    }
}

template <int rows>
static inline void clear(Floats (&acc)[rows][4]) {
    for (auto& row : acc)
        for (auto& sum : row) sum = _mm512_setzero_ps();
}

template <Kind kind>
struct Walk {
    const Problem& task;
    const int64_t tokens = task.panels * PANEL;
    static constexpr int64_t pair = kind == Kind::bf16 ? 2 : 1;  // values in a word

    float* at(float* tile, int64_t panel, int64_t row) const { return tile + (panel * TILE + row) * PANEL; }

    template <Kind side_kind>
    void project(const Side& side, int64_t first, int64_t count, float* tile) const {
        for (int64_t panel = 0; panel < task.panels; ++panel)
            for (int64_t from = 0; from < side.words; from += DEPTH) {
                const int64_t depth = std::min(DEPTH, side.words - from);
                const uint32_t* states = side.states + (panel * side.words + from) * PANEL;
                by_rows(count, [&]<int rows>(int64_t row) {
                    Floats acc[rows][4];
                    clear(acc);
                    multiply<side_kind, rows, true>(depth, side.head + (first + row) * side.words + from, side.words, states, acc);
                    put<float, rows>(acc, at(tile, panel, row), PANEL, PANEL, from > 0);
                });
            }
    }

    // tile = softcap(scale * (head states + bias)) / temperature
    void compute(const Side& side, int64_t first, int64_t count, float* tile) const {
        side.bf16 ? project<Kind::bf16>(side, first, count, tile) : project<Kind::fp32>(side, first, count, tile);
        if (!side.bias && side.scale == 1 && side.softcap == 0 && task.temperature == 1) return;
        for (int64_t panel = 0; panel < task.panels; ++panel)
            for (int64_t row = 0; row < count; ++row)
                for (int64_t n = 0; n < PANEL; n += 16) {
                    float* place = at(tile, panel, row) + n;
                    const Floats bias = all(side.bias ? side.bias[first + row] : 0.0f);
                    Floats z = _mm512_mul_ps(_mm512_add_ps(_mm512_load_ps(place), bias), all(side.scale));
                    if (side.softcap > 0)
                        z = _mm512_mul_ps(tanh16(_mm512_div_ps(z, all(side.softcap))), all(side.softcap));
                    _mm512_store_ps(place, _mm512_div_ps(z, all(task.temperature)));
                }
    }

    static bool keeps(const Side& side, int64_t first, int64_t count) { return first + count <= side.kept; }

    void keep(const Side& side, int64_t first, int64_t count, const float* tile, const float* reference) const {
        if (!keeps(side, first, count)) return;
        char* const place = side.store + first * side.stride;
        for (int64_t panel = 0; panel < task.panels; ++panel) {
            const float* from = tile + panel * TILE * PANEL;
            if (!task.halves) {
                std::memcpy(reinterpret_cast<float*>(place) + panel * count * PANEL, from, count * PANEL * sizeof(float));
            } else {
                uint16_t* to = reinterpret_cast<uint16_t*>(place) + panel * count * PANEL;
                for (int64_t i = 0; i < count * PANEL; i += 16) {
                    const Floats shift = _mm512_loadu_ps(reference + panel * PANEL + i % PANEL);
                    _mm256_storeu_si256((__m256i*)(to + i), to_half(_mm512_sub_ps(_mm512_load_ps(from + i), shift)));
                }
            }
        }
    }

    // What `keep` kept, or the same numbers computed once more.
    void fetch(const Side& side, int64_t first, int64_t count, float* tile, const float* reference) const {
        if (!keeps(side, first, count)) return compute(side, first, count, tile);
        const char* const place = side.store + first * side.stride;
        for (int64_t panel = 0; panel < task.panels; ++panel) {
            float* to = tile + panel * TILE * PANEL;
            if (!task.halves) {
                std::memcpy(to, reinterpret_cast<const float*>(place) + panel * count * PANEL, count * PANEL * sizeof(float));
            } else {
                const uint16_t* from = reinterpret_cast<const uint16_t*>(place) + panel * count * PANEL;
                for (int64_t i = 0; i < count * PANEL; i += 16) {
                    const Floats shift = _mm512_loadu_ps(reference + panel * PANEL + i % PANEL);
                    _mm512_store_ps(to + i, _mm512_add_ps(from_half(_mm256_loadu_si256((const __m256i*)(from + i))), shift));
                }
            }
        }
    }

    // Two rows for each tile of a range: the running maxima there, to which what is kept as half is relative.
    template <typename Value>
    Value* reference_of(Value* reference, int64_t offset) const {
        return reference + offset / TILE * 2 * tokens;
    }

    void fetch_both(int64_t offset, int64_t first, int64_t count, float* tile_s, float* tile_t, const float* reference) const {
        const float* own = reference_of(reference, offset);
        fetch(task.student, first, count, tile_s, own);
        fetch(task.teacher, first, count, tile_t, own + tokens);
    }

    // Running maxima and sums of both sides, sixteen tokens at a time; a tile is summed by itself first, so that rounding
    // grows with the size of a tile and not with the vocabulary. GAP_S: sum of e^(s - max) (s - t); GAP_T alike.
    void observe(int64_t count, float* tile_s, float* tile_t, float* stats) const {
        for (int64_t n = 0; n < tokens; n += 16) {
            const float *s = at(tile_s, n / PANEL, 0) + n % PANEL, *t = at(tile_t, n / PANEL, 0) + n % PANEL;
            const auto stat = [&](Stat name) { return stats + name * tokens + n; };
            const Floats old_s = _mm512_loadu_ps(stat(MAX_S)), old_t = _mm512_loadu_ps(stat(MAX_T));
            Floats max_s = old_s, max_t = old_t;
            for (int64_t row = 0; row < count; ++row) {
                max_s = _mm512_max_ps(max_s, _mm512_load_ps(s + row * PANEL));
                max_t = _mm512_max_ps(max_t, _mm512_load_ps(t + row * PANEL));
            }
            const Floats fade_s = exp16(_mm512_sub_ps(old_s, max_s)), fade_t = exp16(_mm512_sub_ps(old_t, max_t));
            Floats sum_s = _mm512_setzero_ps();
            Floats sum_t = _mm512_setzero_ps();
            Floats gap_s = _mm512_setzero_ps();
            Floats gap_t = _mm512_setzero_ps();
            for (int64_t row = 0; row < count; ++row) {
                const Floats z_s = _mm512_load_ps(s + row * PANEL), z_t = _mm512_load_ps(t + row * PANEL);
                const Floats e_s = exp16(_mm512_sub_ps(z_s, max_s)), e_t = exp16(_mm512_sub_ps(z_t, max_t));
                const Floats gap = _mm512_sub_ps(z_s, z_t);
                sum_s = _mm512_add_ps(sum_s, e_s);
                sum_t = _mm512_add_ps(sum_t, e_t);
                gap_s = _mm512_fmadd_ps(e_s, gap, gap_s);
                gap_t = _mm512_fnmadd_ps(e_t, gap, gap_t);
            }
            if (task.hard && task.temperature != 1) {
                const Floats warm = all(task.temperature);
                const Floats fade = exp16(_mm512_mul_ps(_mm512_sub_ps(old_s, max_s), warm));
                Floats sum = _mm512_setzero_ps();
                for (int64_t row = 0; row < count; ++row)
                    sum = _mm512_add_ps(
                        sum, exp16(_mm512_mul_ps(_mm512_sub_ps(_mm512_load_ps(s + row * PANEL), max_s), warm)));
                _mm512_storeu_ps(stat(SUM_HARD), _mm512_fmadd_ps(_mm512_loadu_ps(stat(SUM_HARD)), fade, sum));
            }
            _mm512_storeu_ps(stat(MAX_S), max_s);
            _mm512_storeu_ps(stat(MAX_T), max_t);
            _mm512_storeu_ps(stat(SUM_S), _mm512_fmadd_ps(_mm512_loadu_ps(stat(SUM_S)), fade_s, sum_s));
            _mm512_storeu_ps(stat(SUM_T), _mm512_fmadd_ps(_mm512_loadu_ps(stat(SUM_T)), fade_t, sum_t));
            _mm512_storeu_ps(stat(GAP_S), _mm512_fmadd_ps(_mm512_loadu_ps(stat(GAP_S)), fade_s, gap_s));
            _mm512_storeu_ps(stat(GAP_T), _mm512_fmadd_ps(_mm512_loadu_ps(stat(GAP_T)), fade_t, gap_t));
        }
    }

    static void add_to(float* place, Floats sum) { _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), sum)); }

    // (z - max) - log(sum): both differences are small where the probability is not, so little is rounded away.
    static Floats log_share(const float* z, const float* top, const float* log_sum) {
        return _mm512_sub_ps(_mm512_sub_ps(_mm512_load_ps(z), _mm512_loadu_ps(top)), _mm512_loadu_ps(log_sum));
    }

    // One sixteen of both distributions.
    struct Pair {
        Floats log_p, log_q, p, q;
    };

    Pair pair_at(const float* s, const float* t, int64_t n) const {
        const Floats log_q = log_share(s, task.student_top + n, task.student_log + n);
        const Floats log_p = log_share(t, task.teacher_top + n, task.teacher_log + n);
        return {log_p, log_q, exp16(log_p), exp16(log_q)};
    }

    // d value / d q of the mixtures and the total variation; the value itself is added to `value`.
    Floats slope(const Pair& at, Floats& value) const {
        Floats sum = _mm512_setzero_ps();
        for (int term = 0; term < task.terms; ++term) {
            const float x = task.x[term], y = task.y[term];
            const Floats a = _mm512_fmadd_ps(all(x), at.p, _mm512_mul_ps(all(1 - x), at.q));
            const Floats b = _mm512_fmadd_ps(all(y), at.p, _mm512_mul_ps(all(1 - y), at.q));
            const Floats ratio = _mm512_div_ps(_mm512_max_ps(a, all(SMALLEST)), _mm512_max_ps(b, all(SMALLEST)));
            const Floats log_ratio = log16(ratio), weight = all(task.weight[term]);
            value = _mm512_fmadd_ps(_mm512_mul_ps(weight, a), log_ratio, value);
            const Floats gain = _mm512_fmadd_ps(all(1 - x), log_ratio, _mm512_fnmadd_ps(all(1 - y), ratio, all(1 - x)));
            sum = _mm512_fmadd_ps(weight, gain, sum);
        }
        if (task.variation > 0) {
            const Floats gap = _mm512_sub_ps(at.q, at.p), half = all(0.5f * task.variation);
            value = _mm512_fmadd_ps(_mm512_abs_ps(gap), half, value);
            const __mmask16 above = _mm512_cmp_ps_mask(gap, _mm512_setzero_ps(), _CMP_GT_OQ);
            const __mmask16 below = _mm512_cmp_ps_mask(gap, _mm512_setzero_ps(), _CMP_LT_OQ);
            sum = _mm512_mask_add_ps(sum, above, sum, half);
            sum = _mm512_mask_sub_ps(sum, below, sum, half);
        }
        return sum;
    }

    // sums[0]: the value. sums[1]: sum_v q_v dvalue/dq_v.
    void sum_slopes(int64_t count, float* tile_s, float* tile_t, float* sums) const {
        for (int64_t n = 0; n < tokens; n += 16) {
            const float *s = at(tile_s, n / PANEL, 0) + n % PANEL, *t = at(tile_t, n / PANEL, 0) + n % PANEL;
            Floats value = _mm512_setzero_ps(), mean = _mm512_setzero_ps();
            for (int64_t row = 0; row < count; ++row) {
                const Pair both = pair_at(s + row * PANEL, t + row * PANEL, n);
                mean = _mm512_fmadd_ps(both.q, slope(both, value), mean);
            }
            add_to(sums + n, value);
            add_to(sums + tokens + n, mean);
        }
    }

    // How far below the teacher's first choice, in steps of 2^-19 nats, at most 2^24 - 1.
    __m512i key(const float* t, int64_t n) const {
        const Floats below = _mm512_sub_ps(_mm512_loadu_ps(task.teacher_top + n), _mm512_load_ps(t));
        return _mm512_cvttps_epi32(_mm512_min_ps(_mm512_mul_ps(below, all(524288.0f)), all(16777215.0f)));
    }

    // sums[0]: |p - q| over the head of the teacher's distribution; sums[1]: over everything.
    void sum_gaps(int64_t count, float* tile_s, float* tile_t, float* sums) const {
        for (int64_t n = 0; n < tokens; n += 16) {
            const float *s = at(tile_s, n / PANEL, 0) + n % PANEL, *t = at(tile_t, n / PANEL, 0) + n % PANEL;
            Floats head = _mm512_setzero_ps(), total = _mm512_setzero_ps();
            const __m512i limit = _mm512_loadu_si512(task.head_keys + n);
            for (int64_t row = 0; row < count; ++row) {
                const Pair both = pair_at(s + row * PANEL, t + row * PANEL, n);
                const Floats gap = _mm512_abs_ps(_mm512_sub_ps(both.p, both.q));
                total = _mm512_add_ps(total, gap);
                head = _mm512_mask_add_ps(head, _mm512_cmplt_epi32_mask(key(t + row * PANEL, n), limit), head, gap);
            }
            add_to(sums + n, head);
            add_to(sums + tokens + n, total);
        }
    }

    // The teacher's mass by the next eight bits of the key, among entries whose higher bits are `prefix`. mass: [BINS][tokens].
    void sort_mass(int64_t count, float* tile_t, int shift, const int32_t* prefix, float* mass) const {
        const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        for (int64_t n = 0; n < tokens; n += 16) {
            const float* t = at(tile_t, n / PANEL, 0) + n % PANEL;
            const __m512i wanted = _mm512_loadu_si512(prefix + n);
            for (int64_t row = 0; row < count; ++row) {
                const __m512i bits = _mm512_srlv_epi32(key(t + row * PANEL, n), _mm512_set1_epi32(shift));
                const __mmask16 mine = _mm512_cmpeq_epi32_mask(_mm512_srli_epi32(bits, 8), wanted);
                if (!mine) continue;
                const __m512i bin = _mm512_and_si512(bits, _mm512_set1_epi32(BINS - 1));
                const __m512i place = _mm512_add_epi32(_mm512_mullo_epi32(bin, _mm512_set1_epi32((int)tokens)), lanes);
                const Floats p = exp16(log_share(t + row * PANEL, task.teacher_top + n, task.teacher_log + n));
                const Floats before = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mine, place, mass + n, 4);
                _mm512_mask_i32scatter_ps(mass + n, mine, place, _mm512_add_ps(before, p), 4);
            }
        }
    }

    // d loss / d logit of the student before scale and softcap, into tile_s.
    void differentiate(int64_t first, int64_t count, float* tile_s, float* tile_t) const {
        const bool capped = task.student.softcap > 0;
        const Floats warm = all(task.temperature), cap = all(capped ? task.student.softcap : 1.0f);
        for (int64_t n = 0; n < tokens; n += 16) {
            float *s = at(tile_s, n / PANEL, 0) + n % PANEL, *t = at(tile_t, n / PANEL, 0) + n % PANEL;
            const Floats scale = _mm512_loadu_ps(task.coefficient + n), offset = _mm512_loadu_ps(task.offset + n);
            const Floats forward = _mm512_loadu_ps(task.forward_share + n), reverse = _mm512_loadu_ps(task.reverse_share + n);
            const Floats hard = _mm512_loadu_ps(task.hard_coefficient + n), hard_log = _mm512_loadu_ps(task.hard_log + n);
            const Floats top = _mm512_loadu_ps(task.student_top + n);
            for (int64_t row = 0; row < count; ++row) {
                const Pair both = pair_at(s + row * PANEL, t + row * PANEL, n);
                Floats ignored = _mm512_setzero_ps(), change;
                if (task.terms || task.variation > 0) {
                    change = _mm512_mul_ps(both.q, _mm512_sub_ps(slope(both, ignored), offset));
                } else {
                    const Floats gap = _mm512_sub_ps(_mm512_sub_ps(both.log_q, both.log_p), offset);
                    change = _mm512_mul_ps(forward, _mm512_sub_ps(both.q, both.p));
                    change = _mm512_fmadd_ps(_mm512_mul_ps(reverse, both.q), gap, change);
                }
                change = _mm512_mul_ps(change, scale);
                const Floats z = _mm512_load_ps(s + row * PANEL);
                if (task.hard) {
                    const Floats below = _mm512_mul_ps(_mm512_sub_ps(z, top), warm);
                    const Floats q = task.temperature == 1 ? both.q : exp16(_mm512_sub_ps(below, hard_log));
                    change = _mm512_fmadd_ps(hard, q, change);
                }
                if (capped) {  // keeps the slope of the cap where the target is looked up below
                    const Floats bent = _mm512_div_ps(_mm512_mul_ps(z, warm), cap);
                    const Floats tilt = _mm512_fnmadd_ps(bent, bent, all(1.0f));
                    change = _mm512_mul_ps(change, tilt);
                    _mm512_store_ps(t + row * PANEL, tilt);
                }
                _mm512_store_ps(s + row * PANEL, change);
            }
        }
        if (!task.hard) return;
        for (int64_t n = 0; n < tokens; ++n) {
            const int64_t row = task.targets[n] - first;
            if (row < 0 || row >= count) continue;
            const int64_t place = ((n / PANEL) * TILE + row) * PANEL + n % PANEL;
            tile_s[place] -= task.hard_coefficient[n] * (capped ? tile_t[place] : 1.0f);
        }
    }

    // The gradients of one tile, those that are wanted: head_gradient[first ..] and states_gradient [tokens][width] += .
    void propagate(int64_t first, int64_t count, float* tile, uint16_t* rows_16, uint32_t* pairs, uint32_t* panel,
                   float* states_gradient) const {
        const uint32_t* by_row = reinterpret_cast<const uint32_t*>(tile);
        const uint32_t* by_column = by_row;
        if constexpr (kind == Kind::bf16) {
            round_tile(count, tile, rows_16, pairs);
            by_row = reinterpret_cast<const uint32_t*>(rows_16);
            by_column = pairs;
        }
        constexpr int64_t row_words = PANEL / pair, tile_words = TILE / pair;
        const int64_t deep = (count + pair - 1) / pair;
        for (int64_t column = 0; column < task.width; column += PANEL) {
            const int64_t columns = std::min(PANEL, task.width - column);
            const uint32_t* states = task.states_by_token + column / PANEL * (tokens / pair) * PANEL;
            if (task.head_gradient) by_rows(count, [&]<int rows>(int64_t row) {
                Floats acc[rows][4];
                clear(acc);
                for (int64_t p = 0; p < task.panels; ++p)
                    multiply<kind, rows, true>(row_words, by_row + (p * TILE + row) * row_words, row_words,
                                               states + p * row_words * PANEL, acc);
                using Value = std::conditional_t<kind == Kind::bf16, uint16_t, float>;
                Value* place = static_cast<Value*>(task.head_gradient) + (first + row) * task.width + column;
                put<Value, rows>(acc, place, task.width, columns, task.adds);
            });
            if (!states_gradient) continue;
            copy_panel(first, count, column, columns, panel);
            for (int64_t p = 0; p < task.panels; ++p)
                by_rows(PANEL, [&]<int rows>(int64_t n) {
                    Floats acc[rows][4];
                    clear(acc);
                    multiply<kind, rows, false>(deep, by_column + p * tile_words * PANEL + n, PANEL, panel, acc);
                    put<float, rows>(acc, states_gradient + (p * PANEL + n) * task.width + column, task.width, columns, true);
                });
        }
    }

    // The tile in bf16 twice: neighbours along the tokens, and neighbours along the vocabulary.
    void round_tile(int64_t count, float* tile, uint16_t* rows_16, uint32_t* pairs) const {
        for (int64_t p = 0; p < task.panels; ++p) {
            if (count % 2) std::memset(at(tile, p, count), 0, PANEL * sizeof(float));
            for (int64_t row = 0; row < count; row += 2)
                for (int64_t n = 0; n < PANEL; n += 16) {
                    const __m256i low = to_bf16(_mm512_load_ps(at(tile, p, row) + n));
                    const __m256i high = to_bf16(_mm512_load_ps(at(tile, p, row + 1) + n));
                    uint16_t* place = rows_16 + (p * TILE + row) * PANEL + n;
                    _mm256_store_si256((__m256i*)place, low);
                    _mm256_store_si256((__m256i*)(place + PANEL), high);
                    const __m512i both = _mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                                         _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                    _mm512_store_si512(pairs + (p * TILE / 2 + row / 2) * PANEL + n, both);
                }
        }
    }

    // 64 columns of the head's rows as a right-hand side.
    void copy_panel(int64_t first, int64_t count, int64_t column, int64_t columns, uint32_t* panel) const {
        if constexpr (kind == Kind::fp32) {
            for (int64_t row = 0; row < count; ++row, panel += PANEL) {
                std::memcpy(panel, task.student.head + (first + row) * task.width + column, columns * sizeof(float));
                std::memset(panel + columns, 0, (PANEL - columns) * sizeof(float));
            }
        } else {
            const uint16_t* head = reinterpret_cast<const uint16_t*>(task.student.head) + first * task.width + column;
            for (int64_t row = 0; row < count; row += 2, head += 2 * task.width, panel += PANEL)
                for (int64_t j = 0; j < PANEL; j += 16) {
                    const int64_t left = std::clamp<int64_t>(columns - j, 0, 16);
                    const __mmask16 mask = left == 16 ? 0xffff : (__mmask16)((1u << left) - 1);
                    const __mmask16 second = row + 1 < count ? mask : 0;
                    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, head + j));
                    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(second, head + task.width + j));
                    _mm512_storeu_si512(panel + j, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
                }
        }
    }

    void add_bias_gradient(int64_t first, int64_t count, float* tile) const {
        for (int64_t p = 0; p < task.panels; ++p)
            for (int64_t row = 0; row < count; ++row) {
                const float* from = at(tile, p, row);
                Floats sum = _mm512_add_ps(_mm512_load_ps(from), _mm512_load_ps(from + 16));
                sum = _mm512_add_ps(sum, _mm512_add_ps(_mm512_load_ps(from + 32), _mm512_load_ps(from + 48)));
                task.bias_gradient[first + row] += _mm512_reduce_add_ps(sum);
            }
    }
};

// Runs `body(first, count, tile_s, tile_t)` over the tiles of [from, to).
template <typename Body>
static void over_tiles(const Problem& task, int64_t from, int64_t to, Body&& body) {
    const auto tile_s = buffer<float>(task.panels * TILE * PANEL), tile_t = buffer<float>(task.panels * TILE * PANEL);
    for (int64_t first = from; first < to; first += TILE)
        body(first, std::min(TILE, to - first), tile_s.get(), tile_t.get());
}

template <Kind kind>
static void walk_logits(const Problem& task, int64_t from, int64_t to, float* stats, float* reference) {
    const Walk<kind> walk{task};
    const int64_t tokens = walk.tokens;
    over_tiles(task, from, to, [&](int64_t first, int64_t count, float* tile_s, float* tile_t) {
        walk.compute(task.student, first, count, tile_s);
        walk.compute(task.teacher, first, count, tile_t);
        walk.observe(count, tile_s, tile_t, stats);
        if (task.student.kept || task.teacher.kept) {
            float* own = walk.reference_of(reference, first - from);
            std::memcpy(own, stats + MAX_S * tokens, tokens * sizeof(float));
            std::memcpy(own + tokens, stats + MAX_T * tokens, tokens * sizeof(float));
            walk.keep(task.student, first, count, tile_s, own);
            walk.keep(task.teacher, first, count, tile_t, own + tokens);
        }
        for (int64_t n = 0; task.hard && n < tokens; ++n) {
            const int64_t row = task.targets[n] - first;
            if (row >= 0 && row < count) stats[TARGET * tokens + n] = *(walk.at(tile_s, n / PANEL, row) + n % PANEL);
        }
    });
}

enum Sum { SLOPES, GAPS };

template <Kind kind>
static void walk_sums(const Problem& task, int64_t from, int64_t to, const float* reference, int which, float* sums) {
    const Walk<kind> walk{task};
    over_tiles(task, from, to, [&](int64_t first, int64_t count, float* tile_s, float* tile_t) {
        walk.fetch_both(first - from, first, count, tile_s, tile_t, reference);
        if (which == SLOPES)
            walk.sum_slopes(count, tile_s, tile_t, sums);
        else
            walk.sum_gaps(count, tile_s, tile_t, sums);
    });
}

template <Kind kind>
static void walk_mass(const Problem& task, int64_t from, int64_t to, const float* reference, int shift,
                      const int32_t* prefix, float* mass) {
    const Walk<kind> walk{task};
    over_tiles(task, from, to, [&](int64_t first, int64_t count, float*, float* tile_t) {
        walk.fetch(task.teacher, first, count, tile_t, walk.reference_of(reference, first - from) + walk.tokens);
        walk.sort_mass(count, tile_t, shift, prefix, mass);
    });
}

template <Kind kind>
static void walk_gradients(const Problem& task, int64_t from, int64_t to, const float* reference, float* states_gradient) {
    const Walk<kind> walk{task};
    const auto rows_16 = buffer<uint16_t>(kind == Kind::bf16 ? task.panels * TILE * PANEL : 1);
    const auto pairs = buffer<uint32_t>(kind == Kind::bf16 ? task.panels * TILE * PANEL / 2 : 1);
    const auto panel = buffer<uint32_t>(TILE * PANEL);
    over_tiles(task, from, to, [&](int64_t first, int64_t count, float* tile_s, float* tile_t) {
        walk.fetch_both(first - from, first, count, tile_s, tile_t, reference);
        walk.differentiate(first, count, tile_s, tile_t);
        if (task.bias_gradient) walk.add_bias_gradient(first, count, tile_s);
        walk.propagate(first, count, tile_s, rows_16.get(), pairs.get(), panel.get(), states_gradient);
    });
}

}  // namespace potstill

using namespace potstill;

extern "C" {

int potstill_problem_bytes() { return sizeof(Problem); }

void potstill_walk_logits(const Problem* task, int64_t from, int64_t to, float* stats, float* reference) {
    task->student.bf16 ? walk_logits<Kind::bf16>(*task, from, to, stats, reference)
               : walk_logits<Kind::fp32>(*task, from, to, stats, reference);
}

void potstill_walk_sums(const Problem* task, int64_t from, int64_t to, const float* reference, int which, float* sums) {
    task->student.bf16 ? walk_sums<Kind::bf16>(*task, from, to, reference, which, sums)
               : walk_sums<Kind::fp32>(*task, from, to, reference, which, sums);
}

void potstill_walk_mass(const Problem* task, int64_t from, int64_t to, const float* reference, int shift,
                        const int32_t* prefix, float* mass) {
    task->student.bf16 ? walk_mass<Kind::bf16>(*task, from, to, reference, shift, prefix, mass)
               : walk_mass<Kind::fp32>(*task, from, to, reference, shift, prefix, mass);
}

void potstill_walk_gradients(const Problem* task, int64_t from, int64_t to, const float* reference, float* gradient) {
    task->student.bf16 ? walk_gradients<Kind::bf16>(*task, from, to, reference, gradient)
               : walk_gradients<Kind::fp32>(*task, from, to, reference, gradient);
}
}

#pragma GCC pop_options

#else

extern "C" int potstill_tiles_support(int) { return 0; }

#endif
