// Scratch memory that grows and is kept, and reading weights of any stored type.
#pragma once

#include <cstdlib>
#include <memory>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

enum Stored { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };  // how weights lie in memory

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
constexpr size_t PAGE = 2 << 20;

struct Buffer {
    std::unique_ptr<float, Free> memory;
    size_t size = 0;
    float* get(size_t count) {  // aligned to cache lines; null when there is no memory
        if (count > size) {
            memory.reset();
            const size_t bytes = (count * sizeof(float) + PAGE - 1) / PAGE * PAGE;
            memory.reset(static_cast<float*>(std::aligned_alloc(PAGE, bytes)));
#if defined(__linux__)
            if (memory) madvise(memory.get(), bytes, MADV_HUGEPAGE);  // fewer page faults and look-ups
#endif
            size = memory ? bytes / sizeof(float) : 0;
        }
        return memory.get();
    }
};

static inline float widen(const void* from, long at, Stored stored) {
    if (stored == FLOAT32) return static_cast<const float*>(from)[at];
    const uint16_t bits = static_cast<const uint16_t*>(from)[at];
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    if (stored == FLOAT16) {  // exponent and mantissa into place; a multiplication corrects the bias: exact
        const uint32_t magnitude = uint32_t(bits & 0x7fff) << 13, sign = uint32_t(bits & 0x8000) << 16;
        std::memcpy(&value, &magnitude, 4);
        value *= 0x1p112f;
        std::memcpy(&wide, &value, 4);
        if ((bits & 0x7c00) == 0x7c00) wide |= 0x7f800000;  // infinity and NaN stay what they are
        wide |= sign;
    }
    std::memcpy(&value, &wide, 4);
    return value;
}
