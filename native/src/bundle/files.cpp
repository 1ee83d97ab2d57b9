#include "files.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

#include "sha256.hpp"

namespace e2e {
namespace {

constexpr size_t piece_bytes = 1 << 20;

// strerror() is not for several threads; both forms of strerror_r() are served.
[[maybe_unused]] const char* said(int, const char* buffer) { return buffer; }
[[maybe_unused]] const char* said(const char* text, const char*) { return text; }

[[noreturn]] void fail(int number) {
  char buffer[256] = "it failed";
  const std::string reason = said(strerror_r(number, buffer, sizeof buffer), buffer);
  throw FileError{number, reason};
}

void check_regular(mode_t mode) {
  if (S_ISREG(mode)) return;
  const char* kind = S_ISDIR(mode)    ? "a folder"
                     : S_ISFIFO(mode) ? "a named pipe"
                     : S_ISSOCK(mode) ? "a socket"
                     : S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "no regular file";
  throw FileError{EINVAL, std::string("it is ") + kind + ", not a regular file"};
}

Identity identity_from(const struct stat& status) {
#ifdef __APPLE__
  const timespec written = status.st_mtimespec, changed = status.st_ctimespec;
#else
  const timespec written = status.st_mtim, changed = status.st_ctim;
#endif
  const auto ns = [](const timespec& time) { return int64_t{time.tv_sec} * 1000000000 + time.tv_nsec; };
  return {static_cast<int64_t>(status.st_dev), static_cast<int64_t>(status.st_ino),
          static_cast<int64_t>(status.st_size), ns(written), ns(changed)};
}

}  // namespace

File::File(const std::string& path, bool follows) {
  struct stat status;
  // Opening a device can already do something to it.
  if (path.find('\0') != std::string::npos) throw FileError{EINVAL, "its name has a zero byte"};
  if (stat(path.c_str(), &status) != 0) fail(errno);
  check_regular(status.st_mode);
  descriptor_ = open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | (follows ? 0 : O_NOFOLLOW));
  if (descriptor_ < 0) fail(errno);
  try {
    if (fstat(descriptor_, &status) != 0) fail(errno);
    check_regular(status.st_mode);
  } catch (const FileError&) {
    close(descriptor_);
    throw;
  }
}

File::~File() { close(descriptor_); }

Identity File::identity() const {
  struct stat status;
  if (fstat(descriptor_, &status) != 0) fail(errno);
  return identity_from(status);
}

size_t File::read(void* into, size_t size) const {
  auto* bytes = static_cast<uint8_t*>(into);
  size_t held = 0;
  while (held < size) {
    const ssize_t got = ::read(descriptor_, bytes + held, size - held);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(errno);
    if (got == 0) break;
    held += static_cast<size_t>(got);
  }
  return held;
}

std::string File::sha256() const {
  const std::unique_ptr<uint8_t[]> piece(new uint8_t[piece_bytes]);
  Sha256 hash;
  while (const size_t got = read(piece.get(), piece_bytes)) hash.update(piece.get(), got);
  return hash.digest();
}

Identity identity_of(const std::string& path) {
  struct stat status;
  const bool is_file = stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
  return is_file ? identity_from(status) : Identity{-1, -1, -1, -1, -1};
}

bool is_link(const std::string& path) {
  struct stat status;
  return lstat(path.c_str(), &status) == 0 && S_ISLNK(status.st_mode);
}

bool is_there(const std::string& path) {
  struct stat status;
  return lstat(path.c_str(), &status) == 0;
}

}  // namespace e2e
