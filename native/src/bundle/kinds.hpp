// What the numbers of a result are, a row a kind: the table of e2e_deploy/kinds.py (tests/native compares them).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace e2e {

struct Kind {
  const char* name;
  const char* output;   // its name as an output of a graph
  const char* form;     // distance, vectors or picture
  int channels;         // 1: a plain [H, W] map
  double low, high;     // range of the values
  const char* meaning;
  const char* units;
  double power;         // of a distance: an affine map of the value is depth to this power; 0 for everything else
  bool is_linear;       // of a picture: proportional to light, and not as sRGB has it
};

const std::vector<Kind>& kinds();

// The kind called ``name``, or nullptr.
const Kind* find_kind(const std::string& name);

}  // namespace e2e
