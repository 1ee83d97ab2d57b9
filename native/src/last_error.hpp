// What the last call of a thread that failed said.
#pragma once

#include <exception>
#include <new>

#include "error.hpp"
#include "plain_locale.hpp"

namespace e2e {

// Keep a code and its text for this thread, as one line of valid UTF-8; the code. Never throws, allocates nothing.
int keep_error(int code, const char* text) noexcept;

const char* last_text() noexcept;
int last_code() noexcept;

// Run ``body`` in the locale "C"; 0, or the code of what it throws.
template <typename Body>
int guarded(Body body) noexcept {
  const PlainLocale plain;
  try {
    body();
    return 0;
  } catch (const Error& error) {
    return keep_error(error.code, error.what());
  } catch (const std::bad_alloc&) {
    return keep_error(unavailable, "there is too little memory: free some, or use smaller frames");
  } catch (const std::exception& error) {
    return keep_error(failed, error.what());
  } catch (...) {
    return keep_error(failed, "something failed, and does not say what");
  }
}

}  // namespace e2e
