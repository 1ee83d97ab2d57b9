// What every function of the library throws; the C header turns it into a code and a text.
#pragma once

#include <stdexcept>
#include <string>

#if !defined(__SIZEOF_INT128__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libe2e_deploy is for 64-bit little-endian processors: weights are, and the draws of points need 128-bit numbers"
#endif

namespace e2e {

// The exit codes of e2e_deploy/errors.py.
enum Code {
  failed = 1,       // something failed
  usage = 2,        // an argument that cannot be used as given
  parity = 3,       // outside its limit
  unavailable = 4,  // hardware, a driver or a library is missing here
  input = 5,        // missing, unreadable or damaged
};

struct Error : std::runtime_error {
  Error(Code code, const std::string& text) : std::runtime_error(text), code(code) {}
  Code code;
};

}  // namespace e2e
