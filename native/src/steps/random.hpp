// The generator behind numpy.random.default_rng(0): PCG64 (O'Neill 2014, XSL RR 128/64) and Lemire's bounded integers
// (2019), so that the same points are drawn as in Python.
#pragma once

#include <cstdint>

namespace e2e {

class Pcg64 {
 public:
  // A whole number from 0 to ``count`` - 1; ``count`` is at least 2 and below 2**32.
  uint64_t below(uint32_t count) {
    uint64_t product = uint64_t{next32()} * count;
    if (static_cast<uint32_t>(product) < count) {
      const uint32_t threshold = (0 - count) % count;
      while (static_cast<uint32_t>(product) < threshold) product = uint64_t{next32()} * count;
    }
    return product >> 32;
  }

 private:
  __extension__ typedef unsigned __int128 Wide;

  static constexpr Wide wide(uint64_t high, uint64_t low) { return Wide{high} << 64 | low; }

  uint64_t next64() {
    state_ = state_ * wide(0x2360ED051FC65DA4, 0x4385DF649FCCF645) + wide(0x418DDADB3AF71A82, 0x588133BC447873A9);
    const auto mixed = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
    const auto turn = static_cast<unsigned>(state_ >> 122);
    return mixed >> turn | mixed << ((64 - turn) & 63);
  }

  // Halves of 64 bits, the lower one first.
  uint32_t next32() {
    has_half_ = !has_half_;
    if (!has_half_) return half_;
    const uint64_t both = next64();
    half_ = static_cast<uint32_t>(both >> 32);
    return static_cast<uint32_t>(both);
  }

  // What NumPy's SeedSequence makes of the seed 0; the increment above is of the same.
  Wide state_ = wide(0x1AA1B5345996452D, 0x09585EB7A69561E3);
  uint32_t half_ = 0;
  bool has_half_ = false;
};

}  // namespace e2e
