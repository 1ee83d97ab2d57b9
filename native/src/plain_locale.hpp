// The locale "C" for one thread, for a while: programs with a window take the user's, whose decimal point may be a
// comma, for the JSON of a manifest as for a number in a message.
#pragma once

#include <locale.h>
#ifdef __APPLE__
#include <xlocale.h>
#endif

namespace e2e {

class PlainLocale {
 public:
  PlainLocale() noexcept : before_(uselocale(plain())) {}
  ~PlainLocale() { uselocale(before_); }
  PlainLocale(const PlainLocale&) = delete;
  PlainLocale& operator=(const PlainLocale&) = delete;

 private:
  static locale_t plain() noexcept {
    static const locale_t made = newlocale(LC_ALL_MASK, "C", nullptr);
    return made;  // none, where it cannot be had: the thread's stays
  }

  locale_t before_;
};

}  // namespace e2e
