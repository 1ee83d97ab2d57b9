// What a bundle is, as JSON for programs and people.
#pragma once

#include <string>

#include "bundle/manifest.hpp"

namespace e2e {

std::string facts_of(const Manifest& manifest);

}  // namespace e2e
