// Structs of the C header as they come from programs that were built with an older or a newer header.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "error.hpp"

namespace e2e {

constexpr size_t largest_struct = 4096;  // of all headers to come; more is memory that nobody set

// How much of a struct the first version of the header had is ``first``; a program tells how much it has.
inline size_t checked_size(size_t struct_size, size_t first, const char* name) {
  if (struct_size < first || struct_size > largest_struct || struct_size % sizeof(size_t) != 0) {
    throw Error(usage, std::string(name) + ".struct_size is " + std::to_string(struct_size) + "; set it to sizeof(" +
                           name + "), as the _INIT macros do");
  }
  return struct_size;
}

// A struct that a program gives, with zeros for what its header had not.
template <typename T>
T taken(const T* given, size_t first, const char* name) {
  const size_t size = checked_size(given->struct_size, first, name);
  T mine{};
  std::memcpy(&mine, given, std::min(size, sizeof mine));
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  if (std::any_of(bytes + std::min(size, sizeof mine), bytes + size, [](unsigned char byte) { return byte != 0; })) {
    throw Error(usage, std::string(name) + " sets what this version of the library does not know: it is older than "
                                           "the header that the program was built with");
  }
  return mine;
}

// Fill what a program's struct has room for; its own struct_size stays.
template <typename T>
void give(T mine, T* out, size_t first, const char* name) {
  const size_t size = checked_size(out->struct_size, first, name);
  mine.struct_size = size;
  std::memcpy(out, &mine, std::min(size, sizeof mine));
}

}  // namespace e2e
