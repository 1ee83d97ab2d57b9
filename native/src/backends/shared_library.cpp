#include "shared_library.hpp"

#include <dlfcn.h>
#include <link.h>

#include <cstdlib>

#include "../error.hpp"

namespace e2e {

SharedLibrary::SharedLibrary(const std::string& title, const std::string& named, const char* variable,
                             const std::vector<std::string>& names, const std::string& remedy) {
  const char* set = variable == nullptr ? nullptr : std::getenv(variable);
  std::vector<std::string> tried = names;
  std::string where = "the system's libraries";
  if (!named.empty()) {
    tried = {named};
    where = "what was named";
  } else if (set != nullptr && *set != '\0') {
    tried = {set};
    where = variable;
  }
  std::string said;
  for (const std::string& name : tried) {
    handle_ = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ != nullptr) break;
    const char* error = dlerror();
    said += (said.empty() ? "" : "; ") + std::string(error == nullptr ? name : error);
  }
  if (handle_ == nullptr) {
    throw Error(unavailable, title + " does not load from " + where + " (" + said + "): " + remedy);
  }
  link_map* map = nullptr;
  path_ = dlinfo(handle_, RTLD_DI_LINKMAP, &map) == 0 && map != nullptr ? map->l_name : tried.back();
}

void* SharedLibrary::find(const char* symbol) const { return dlsym(handle_, symbol); }

bool SharedLibrary::is(const std::string& name) const {
  void* found = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
  if (found != nullptr) dlclose(found);
  return found == handle_;
}

}  // namespace e2e
