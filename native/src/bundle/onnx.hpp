// What an ONNX file may consist of and point to, looked at before any parser sees it: the rules of
// e2e_deploy/bundle/onnx_paths.py and onnx_check.py.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "onnx_wire.hpp"

namespace e2e {

constexpr uint64_t largest_graph = 0x7FFFFFFF;  // bytes of a file; protocol buffers end there

// The "location" strings of all external tensors in an ONNX file, which errors call ``name``.
// Error (input): it is not a readable ONNX protocol buffer, or has more parts than any graph of ours.
std::set<std::string> locations_in(const std::string& name, Bytes data);

// Refuse, with an Error (input), an ONNX file that none of our exports can have written. ``weights``: bytes of the
// files beside it that it may take weights from, by their names as it knows them; ``target``: that this is the variant
// for, or empty.
void check_graph(const std::string& name, Bytes data, const std::map<std::string, uint64_t>& weights,
                 const std::string& target);

// The tables, for the test that compares them with Python's.
const std::set<std::string>& onnx_operators();
const std::set<std::string>& onnx_int8_operators();

}  // namespace e2e
