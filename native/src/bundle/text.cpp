#include "text.hpp"

#include <algorithm>
#include <cstdio>

namespace e2e {
namespace {

constexpr char32_t replacement = 0xFFFD;
constexpr size_t max_text = 4000;

struct Range {
  char32_t first, last;
};

// Unicode's general category Cf, and what none will ever assign (Cn).
constexpr Range formats[] = {
    {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},     {0x6DD, 0x6DD},     {0x70F, 0x70F},
    {0x890, 0x891},     {0x8E2, 0x8E2},     {0x180E, 0x180E},   {0x200B, 0x200F},   {0x202A, 0x202E},
    {0x2060, 0x206F},   {0xFDD0, 0xFDEF},   {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},   {0x110BD, 0x110BD},
    {0x110CD, 0x110CD}, {0x13430, 0x1343F}, {0x1BCA0, 0x1BCA3}, {0x1D173, 0x1D17A}, {0xE0000, 0xE0FFF},
};
constexpr Range selectors = {0xE0100, 0xE01EF};  // in the last of them, and no formats

bool is_joiner(char32_t c) { return c == 0x200C || c == 0x200D; }  // Persian and Indian words need them

// Categories Cc, Cf, Cs, Co and the lasting part of Cn.
bool is_control(char32_t c) {
  if (c < 0x20 || (c >= 0x7F && c < 0xA0)) return true;
  if (c < 0xAD) return false;
  if ((c >= 0xD800 && c <= 0xF8FF) || c >= 0xF0000 || (c & 0xFFFE) == 0xFFFE) return true;
  if (c >= selectors.first && c <= selectors.last) return false;
  return std::any_of(std::begin(formats), std::end(formats),
                     [c](const Range& range) { return c >= range.first && c <= range.last; });
}

// What Python's str.split() splits at.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) { return c == ' ' || !(is_space(c) || is_control(c)); }

// The code point at ``at`` and its bytes, or U+FFFD and the bytes of the longest part that could have begun one.
char32_t next(const uint8_t* data, size_t size, size_t at, size_t& width, bool& good) {
  const uint8_t first = data[at];
  width = 1;
  good = true;
  if (first < 0x80) return first;
  const size_t wanted = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  good = wanted != 0;
  if (!good) return replacement;
  uint8_t low = 0x80, high = 0xBF;  // of the second byte: no overlong forms, no surrogates, nothing above U+10FFFF
  if (first == 0xE0) low = 0xA0;
  if (first == 0xED) high = 0x9F;
  if (first == 0xF0) low = 0x90;
  if (first == 0xF4) high = 0x8F;
  char32_t value = first & (0x7F >> wanted);
  for (; width < wanted; ++width, low = 0x80, high = 0xBF) {
    if (at + width >= size || data[at + width] < low || data[at + width] > high) {
      good = false;
      return replacement;
    }
    value = value << 6 | (data[at + width] & 0x3F);
  }
  return value;
}

}  // namespace

std::u32string decoded(const std::string& utf8) {
  std::u32string text;
  text.reserve(utf8.size());
  const auto* data = reinterpret_cast<const uint8_t*>(utf8.data());
  bool good;
  for (size_t at = 0, width; at < utf8.size(); at += width) text.push_back(next(data, utf8.size(), at, width, good));
  return text;
}

std::string encoded(const std::u32string& text) {
  std::string utf8;
  utf8.reserve(text.size());
  for (char32_t c : text) {
    if (c < 0x80) {
      utf8.push_back(static_cast<char>(c));
      continue;
    }
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    utf8.push_back(static_cast<char>((0xF0 << (3 - more) & 0xFF) | c >> (6 * more)));
    for (int left = more - 1; left >= 0; --left) utf8.push_back(static_cast<char>(0x80 | (c >> (6 * left) & 0x3F)));
  }
  return utf8;
}

bool is_utf8(const uint8_t* data, size_t size) {
  bool good = true;
  for (size_t at = 0, width; good && at < size; at += width) next(data, size, at, width, good);
  return good;
}

std::string cleaned(const std::string& text, size_t limit) {
  const size_t looked_at = 4 * limit + 16;  // a text may be as long as a manifest
  const std::u32string whole = decoded(text.substr(0, 4 * (looked_at + 1)));
  const bool is_long = whole.size() > looked_at;
  std::u32string shown;
  bool after_space = false;
  for (char32_t c : whole.substr(0, looked_at)) {
    if (is_space(c)) {
      after_space = true;
      continue;
    }
    if (after_space && !shown.empty()) shown.push_back(' ');
    after_space = false;
    shown.push_back(is_control(c) && !is_joiner(c) ? replacement : c);
  }
  if (shown.size() > limit || is_long) {
    shown.resize(std::min(shown.size(), limit - 1));
    while (!shown.empty() && shown.back() == ' ') shown.pop_back();
    shown.push_back(0x2026);
  }
  return encoded(shown);
}

std::string cleaned_text(const std::string& text) {
  // Most texts are short and ASCII.
  if (text.size() <= max_text && std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c < 0x7F; }))
    return text;
  const std::u32string whole = decoded(text);
  if (whole.size() <= max_text && std::all_of(whole.begin(), whole.end(), is_printable)) return encoded(whole);
  return cleaned(text, max_text);
}

std::string quoted(const std::string& text) {
  const char quote = text.find('\'') != std::string::npos && text.find('"') == std::string::npos ? '"' : '\'';
  std::string shown(1, quote);
  char escape[12];
  for (char32_t c : decoded(text)) {
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      shown += '\\';
      shown += static_cast<char>(c);
    } else if (c == '\n' || c == '\r' || c == '\t') {
      shown += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (is_printable(c)) {
      shown += encoded({c});
    } else {
      const char* form = c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escape, sizeof escape, form, static_cast<unsigned>(c));
      shown += escape;
    }
  }
  return shown + quote;
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) text += (i ? between : "") + words[i];
  return text;
}

std::string listed(const std::vector<int64_t>& numbers) {
  std::vector<std::string> words;
  for (int64_t number : numbers) words.push_back(std::to_string(number));
  return "[" + joined(words, ", ") + "]";
}

std::string short_number(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*g", digits, value);
  return text;
}

std::string grouped(uint64_t number) {
  std::string digits = std::to_string(number);
  for (size_t end = digits.size(); end > 3; end -= 3) digits.insert(end - 3, ",");
  return digits;
}

std::string by(int64_t height, int64_t width) { return std::to_string(height) + "x" + std::to_string(width); }

}  // namespace e2e
