// Protocol buffers read field by field, without a library and without copies. Knows no message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "text.hpp"

namespace e2e {

// What is no protocol buffer.
struct WireError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// One field: the bytes of one with a length (data is never nullptr then), the value of a number of any width.
struct Field {
  uint64_t number;
  bool has_bytes;
  Bytes bytes;
  uint64_t value;

  // Its text; of a number, none. Throws WireError for what is no UTF-8.
  std::string text() const {
    if (!has_bytes) return {};
    if (!is_utf8(bytes.data, bytes.size)) throw WireError("a name is no text");
    return std::string(reinterpret_cast<const char*>(bytes.data), bytes.size);
  }
};

inline uint64_t varint(Bytes bytes, size_t& at) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    if (at >= bytes.size) throw WireError("it ends within a number");
    const uint8_t byte = bytes.data[at++];
    if (shift > 63 || (shift == 63 && byte > 1)) throw WireError("a number is too long");
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
}

// ``each`` gets every Field. Throws WireError.
template <class Each>
void wire_fields(Bytes bytes, Each each) {
  size_t at = 0;
  while (at < bytes.size) {
    const uint64_t key = varint(bytes, at);
    // Parsers cut tags to 32 bits, so this would be another field for them.
    if (key > 0xFFFFFFFF) throw WireError("a field number is too large");
    Field field{key >> 3, false, {}, 0};
    const unsigned wire = key & 7;
    if (wire == 0) {
      field.value = varint(bytes, at);
    } else if (wire == 1 || wire == 5) {
      const size_t width = wire == 1 ? 8 : 4;
      if (bytes.size - at < width) throw WireError("it ends within a number");
      for (size_t i = 0; i < width; ++i) field.value |= uint64_t{bytes.data[at + i]} << (8 * i);
      at += width;
    } else if (wire == 2) {
      const uint64_t length = varint(bytes, at);
      if (length > bytes.size - at) throw WireError("a field is longer than its message");
      field.has_bytes = true;
      field.bytes = {bytes.data + at, static_cast<size_t>(length)};
      at += static_cast<size_t>(length);
    } else {
      throw WireError("unknown wire type " + std::to_string(wire));
    }
    each(field);
  }
}

// ``each`` gets the integers of one field that repeats: one of them, or several packed together.
template <class Each>
void numbers(const Field& field, Each each) {
  if (!field.has_bytes) return each(field.value);
  for (size_t at = 0; at < field.bytes.size;) each(varint(field.bytes, at));
}

}  // namespace e2e
