// Files read without waiting and without end; identities that tell whether one was replaced. POSIX.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace e2e {

// Device, inode, size, and the times of content and inode: another one where a file was replaced or written to.
using Identity = std::array<int64_t, 5>;

// Why a file could not be read.
struct FileError {
  int number;  // errno
  std::string reason;
};

// An open regular file. A pipe without a writer would wait for one, a device may never end: neither is opened.
class File {
 public:
  // Throws FileError. A link at ``path`` itself is not followed unless ``follows``.
  File(const std::string& path, bool follows);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  Identity identity() const;
  uint64_t size() const { return static_cast<uint64_t>(identity()[2]); }
  // Up to ``size`` bytes from where it stands; fewer at its end.
  size_t read(void* into, size_t size) const;
  // SHA-256 of what follows, hex.
  std::string sha256() const;

 private:
  int descriptor_;
};

// The identity of the regular file at ``path``, or of none.
Identity identity_of(const std::string& path);

bool is_link(const std::string& path);
bool is_there(const std::string& path);

}  // namespace e2e
