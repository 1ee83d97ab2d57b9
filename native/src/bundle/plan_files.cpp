#include <cerrno>
#include <sys/stat.h>
#include <unistd.h>

#include "bundle.hpp"

namespace e2e {
namespace {

// A word of a shell's command line, as Python's shlex.quote() has it.
std::string shell_word(const std::string& text) {
  const char* const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!text.empty() && text.find_first_not_of(plain) == std::string::npos) return text;
  std::string word = "'";
  for (char c : text) word += c == '\'' ? std::string("'\"'\"'") : std::string(1, c);
  return word + "'";
}

void check_owner(const std::string& path, bool follows) {
  struct stat status;
  if ((follows ? stat : lstat)(path.c_str(), &status) != 0) throw Error(input, path + " is missing");
  if (status.st_mode & (S_IWGRP | S_IWOTH))
    throw Error(input, path + " can be written by other users, and a plan is native code that would run as you; if you "
                              "trust it: chmod go-w " + shell_word(path));
  if (status.st_uid != 0 && status.st_uid != geteuid())
    throw Error(input, path + " belongs to another user, and a plan is native code that would run as you; copy the "
                              "bundle into a folder of your own if you trust it");
}

}  // namespace

std::string require_private(const std::string& root, const std::string& name) {
  const std::string path = safe_path(root, name);
  check_owner(path, false);
  check_owner(root + "/" + manifest_name, false);
  for (size_t end = path.rfind('/'); end > root.size() && end != std::string::npos; end = path.rfind('/', end - 1))
    check_owner(path.substr(0, end), false);
  check_owner(root, true);
  return path;
}

}  // namespace e2e
