#include "last_error.hpp"

#include <cstddef>
#include <cstring>

namespace e2e {
namespace {

// Plain memory: nothing to construct or to destroy in threads that come and go.
thread_local char kept_text[4096] = "";
thread_local int kept_code = 0;

// Bytes of the character of UTF-8 that begins here; 0 where none does. ``text`` ends in a zero byte.
size_t width_of(const char* text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t width = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  for (size_t i = 1; i < width; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  const bool is_overlong = (first == 0xE0 && byte(1) < 0xA0) || (first == 0xF0 && byte(1) < 0x90);
  const bool is_none = (first == 0xED && byte(1) > 0x9F) || (first == 0xF4 && byte(1) > 0x8F);
  return is_overlong || is_none ? 0 : width;
}

}  // namespace

int keep_error(int code, const char* text) noexcept {
  size_t length = 0;
  while (*text != '\0') {
    const size_t width = width_of(text);
    const auto first = static_cast<unsigned char>(*text);
    const bool is_control = first < 0x20 || first == 0x7F;
    const char* part = is_control ? " " : width == 0 ? "\xEF\xBF\xBD" : text;  // what is no character is U+FFFD
    const size_t size = is_control ? 1 : width == 0 ? 3 : width;
    if (length + size >= sizeof kept_text) break;  // no half of a character at the end
    if (!(is_control && length > 0 && kept_text[length - 1] == ' ')) {
      std::memcpy(kept_text + length, part, size);
      length += size;
    }
    text += width == 0 ? 1 : width;
  }
  while (length > 0 && kept_text[length - 1] == ' ') --length;
  kept_text[length] = '\0';
  kept_code = code;
  return code;
}

const char* last_text() noexcept { return kept_text; }
int last_code() noexcept { return kept_code; }

}  // namespace e2e
