#include "last_error.hpp"

#include <cstddef>
#include <cstring>

namespace e2e {
namespace {

// Plain memory: nothing to construct or to destroy in threads that come and go.
thread_local char kept_text[4096] = "";
thread_local int kept_code = 0;

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

}  // namespace

int keep_error(int code, const char* text) noexcept {
  size_t length = 0;
  const size_t room = sizeof kept_text - 1;
  for (; *text != '\0' && length < room; ++text) {
    const auto byte = static_cast<unsigned char>(*text);
    const bool is_control = byte < 0x20 || byte == 0x7F;
    if (is_control && length > 0 && kept_text[length - 1] == ' ') continue;
    kept_text[length++] = is_control ? ' ' : *text;
  }
  if (*text != '\0') {  // cut: no half of a character at the end
    while (length > 0 && is_continuation(kept_text[length - 1])) --length;
    if (length > 0 && (static_cast<unsigned char>(kept_text[length - 1]) & 0x80) != 0) --length;
  }
  while (length > 0 && kept_text[length - 1] == ' ') --length;
  kept_text[length] = '\0';
  kept_code = code;
  return code;
}

const char* last_text() noexcept { return kept_text; }
int last_code() noexcept { return kept_code; }

}  // namespace e2e
