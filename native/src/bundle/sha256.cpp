#include "sha256.hpp"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(E2E_DEPLOY_PLAIN_SHA256)
#include <cpuid.h>
#include <immintrin.h>
#define E2E_SHA_NI 1
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(E2E_DEPLOY_PLAIN_SHA256)
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define E2E_SHA_ARM 1
#endif

namespace e2e {
namespace {

using State = std::array<uint32_t, 8>;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
alignas(16) constexpr uint32_t rounds[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t turned(uint32_t x, int bits) { return x >> bits | x << (32 - bits); }

void plain(State& state, const uint8_t* data, size_t blocks) {
  for (; blocks; --blocks, data += 64) {
    uint32_t w[64];
    for (int t = 0; t < 16; ++t) {
      const uint8_t* at = data + 4 * t;
      w[t] = uint32_t{at[0]} << 24 | uint32_t{at[1]} << 16 | uint32_t{at[2]} << 8 | at[3];
    }
    for (int t = 16; t < 64; ++t) {
      const uint32_t s0 = turned(w[t - 15], 7) ^ turned(w[t - 15], 18) ^ w[t - 15] >> 3;
      const uint32_t s1 = turned(w[t - 2], 17) ^ turned(w[t - 2], 19) ^ w[t - 2] >> 10;
      w[t] = s1 + w[t - 7] + s0 + w[t - 16];
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (int t = 0; t < 64; ++t) {
      const uint32_t t1 = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + rounds[t] + w[t];
      const uint32_t t2 = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const uint32_t now[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += now[i];
  }
}

#if defined(E2E_SHA_NI)

// Two registers hold the state, as the instructions want it: a b e f and c d g h.
__attribute__((target("sha,sse4.1"))) void hashed(State& state, const uint8_t* data, size_t blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  const auto words = [&](int i) __attribute__((target("sha,sse4.1"))) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(&state[i]));
  };
  const __m128i badc = _mm_shuffle_epi32(words(0), 0xB1), hgfe = _mm_shuffle_epi32(words(4), 0x1B);
  __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xF0);
  for (; blocks; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i)
      w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i)), big_endian);
    for (int i = 0; i < 16; ++i) {
      __m128i now = _mm_add_epi32(w[i & 3], _mm_load_si128(reinterpret_cast<const __m128i*>(rounds + 4 * i)));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, now);
      now = _mm_shuffle_epi32(now, 0x0E);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, now);
      if (i >= 12) continue;  // the four words that stand 16 further on
      const __m128i last = w[(i + 3) & 3];
      __m128i next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
      next = _mm_add_epi32(next, _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
      w[i & 3] = _mm_sha256msg2_epu32(next, last);
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[0]), _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(&state[4]), _mm_alignr_epi8(dchg, feba, 8));
}

#elif defined(E2E_SHA_ARM)

__attribute__((target("+crypto"))) void hashed(State& state, const uint8_t* data, size_t blocks) {
  uint32x4_t abcd = vld1q_u32(&state[0]), efgh = vld1q_u32(&state[4]);
  for (; blocks; --blocks, data += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];
    for (int i = 0; i < 4; ++i) w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
    for (int i = 0; i < 16; ++i) {
      const uint32x4_t now = vaddq_u32(w[i & 3], vld1q_u32(rounds + 4 * i)), before = abcd;
      abcd = vsha256hq_u32(abcd, efgh, now);
      efgh = vsha256h2q_u32(efgh, before, now);
      if (i >= 12) continue;  // the four words that stand 16 further on
      w[i & 3] = vsha256su1q_u32(vsha256su0q_u32(w[i & 3], w[(i + 1) & 3]), w[(i + 2) & 3], w[(i + 3) & 3]);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(&state[0], abcd);
  vst1q_u32(&state[4], efgh);
}

#endif

using Blocks = void (*)(State&, const uint8_t*, size_t);

Blocks best() {
#if defined(E2E_SHA_NI)
  unsigned a, b, c, d;
  const bool has_sse = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
  if (has_sse && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA)) return hashed;
#elif defined(E2E_SHA_ARM)
  if (getauxval(AT_HWCAP) & HWCAP_SHA2) return hashed;
#endif
  return plain;  // a sixth as fast
}

}  // namespace

void Sha256::update(const void* data, size_t size) {
  static const Blocks blocks = best();
  const auto* bytes = static_cast<const uint8_t*>(data);
  if (const size_t held = size_ % 64; held && size) {
    const size_t more = std::min(64 - held, size);
    std::memcpy(rest_ + held, bytes, more);
    size_ += more, bytes += more, size -= more;
    if (size_ % 64) return;
    blocks(state_, rest_, 1);
  }
  blocks(state_, bytes, size / 64);
  if (size % 64) std::memcpy(rest_, bytes + size / 64 * 64, size % 64);
  size_ += size;
}

std::string Sha256::digest() {
  const uint64_t bits = size_ * 8;
  uint8_t end[72] = {0x80};
  const size_t zeros = (119 - size_ % 64) % 64;  // so that with the one bit and the eight bytes a block is full
  for (int i = 0; i < 8; ++i) end[1 + zeros + i] = static_cast<uint8_t>(bits >> (56 - 8 * i));
  update(end, 1 + zeros + 8);
  std::string hex;
  for (uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) hex.push_back("0123456789abcdef"[word >> shift & 15]);
  return hex;
}

std::string sha256(const void* data, size_t size) {
  Sha256 hash;
  hash.update(data, size);
  return hash.digest();
}

}  // namespace e2e
