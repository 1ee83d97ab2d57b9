#include "memory.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>

namespace e2e {
namespace {

// The first whole number of a file, false where there is none (as the word max).
bool number_in(const std::string& path, int64_t& number) {
  std::ifstream file(path);
  return static_cast<bool>(file >> number);
}

// The number after ``name`` in a file of lines "name number".
bool field_in(const std::string& path, const std::string& name, int64_t& number) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string first;
    if (words >> first && first == name) return static_cast<bool>(words >> number);
  }
  return false;
}

// The group of this process, as "/a/b"; "" for the one around all, or where nothing tells.
std::string own_group() {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::/", 0) == 0) return line == "0::/" ? "" : line.substr(3);
  }
  return "";
}

}  // namespace

int64_t available_memory_bytes() {
  int64_t kibibytes = 0;
  if (!field_in("/proc/meminfo", "MemAvailable:", kibibytes)) return -1;
  int64_t free = kibibytes * 1024;
  for (std::string group = own_group();; group.resize(group.find_last_of('/'))) {
    const std::string folder = "/sys/fs/cgroup" + group;
    int64_t limit = 0, used = 0, cache = 0;
    // The page cache counts as used, and goes when its room is needed.
    if (number_in(folder + "/memory.max", limit) && number_in(folder + "/memory.current", used) &&
        field_in(folder + "/memory.stat", "inactive_file", cache)) {
      free = std::min(free, limit - used + cache);
    }
    if (group.empty()) break;
  }
  return std::max<int64_t>(0, free);
}

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  const int found = sched_getaffinity(0, sizeof set, &set) == 0
                        ? CPU_COUNT(&set)
                        : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, found);
}

}  // namespace e2e
