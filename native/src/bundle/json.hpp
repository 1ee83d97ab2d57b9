// JSON that somebody else may have written, read within the bounds of e2e_deploy/system/json_files.py.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace e2e {

using Json = nlohmann::json;

constexpr size_t max_json_bytes = size_t{1} << 24;
constexpr int max_json_depth = 32;
// Python has no such bound; here, small values would take sixty times the memory of their text, on a small machine.
constexpr size_t max_json_values = 1000000;

// The object in ``text``: finite numbers within 64 bits, no key twice in one object, at most max_json_depth objects
// and lists inside each other, max_json_values in all. What is no UTF-8, and lone surrogates, become U+FFFD.
// Error (input) otherwise, which calls it ``name``.
Json parse_json(const std::string& text, const std::string& name);

// A value as Python's reprlib shows it, in one line of at most 120 characters.
std::string shown(const Json& value);

}  // namespace e2e
