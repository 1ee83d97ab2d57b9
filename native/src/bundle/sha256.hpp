// SHA-256, FIPS 180-4.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace e2e {

class Sha256 {
 public:
  void update(const void* data, size_t size);
  // The hash of all that was given, as 64 hexadecimal digits; nothing can be added after it.
  std::string digest();

 private:
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint64_t size_ = 0;
  uint8_t rest_[64] = {};
};

std::string sha256(const void* data, size_t size);

}  // namespace e2e
