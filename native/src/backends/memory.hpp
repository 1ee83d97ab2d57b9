// How much memory is free, and how many cores there are; as e2e_deploy/nvidia/hardware.py and
// runtime/backends/onnxruntime/options.py reckon it, so that sessions are bound and cut up as Python's are.
#pragma once

#include <cstdint>

namespace e2e {

// Bytes that can be had without swapping, as Linux estimates it and as a container's limit leaves it; -1 where
// nothing tells.
int64_t available_memory_bytes();

// CPU cores that this process may use.
int usable_cores();

}  // namespace e2e
