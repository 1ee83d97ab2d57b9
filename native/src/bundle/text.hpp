// Text from outside made safe to print and store, as e2e_deploy/system/text.py; values as Python's errors show them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace e2e {

// Code points of UTF-8; what is no UTF-8 becomes U+FFFD, as Python's "replace" has it.
std::u32string decoded(const std::string& utf8);
std::string encoded(const std::u32string& text);
bool is_utf8(const uint8_t* data, size_t size);

// One line of at most ``limit`` characters: runs of white space become one space; control and format characters,
// surrogates and private ones become U+FFFD; what is longer ends in an ellipsis. Unlike Python's, code points that no
// version of Unicode has assigned yet stay, for that would need its whole table.
std::string cleaned(const std::string& text, size_t limit = 500);

// Unchanged where it is printable and short enough, else cleaned: a text of a manifest.
std::string cleaned_text(const std::string& text);

// A text in quotes, as Python's repr() has it.
std::string quoted(const std::string& text);

std::string joined(const std::vector<std::string>& words, const char* between);

// "[1, 24, 32]"
std::string listed(const std::vector<int64_t>& numbers);

// printf's %.*g
std::string short_number(double value, int digits);

// "16,777,216"
std::string grouped(uint64_t number);

// "24x32"
std::string by(int64_t height, int64_t width);

}  // namespace e2e
