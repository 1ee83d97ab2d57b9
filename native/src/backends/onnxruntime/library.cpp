#include "library.hpp"

#include <cstdio>
#include <cstdlib>
#include <mutex>

#include "../../bundle/text.hpp"

namespace e2e {
namespace {

constexpr uint32_t api_version = 20;  // what is called here is as old; the headers may be newer
constexpr const char* needed = "1.20 or later";
static_assert(ORT_API_VERSION >= api_version, "the headers of ONNX Runtime 1.20 or later are needed");

// ONNX Runtime 1.31 makes a device id and looks up a host of Microsoft's while it starts; the variable, read then,
// stops both (e2e_deploy/packages.py). A program that set it itself keeps what it chose.
class NoTelemetry {
 public:
  NoTelemetry() : ours_(std::getenv(name) == nullptr) {
    if (ours_) setenv(name, "1", 1);
  }
  ~NoTelemetry() {
    if (ours_) unsetenv(name);
  }
  NoTelemetry(const NoTelemetry&) = delete;
  NoTelemetry& operator=(const NoTelemetry&) = delete;

 private:
  static constexpr const char* name = "ORT_DISABLE_TELEMETRY";
  bool ours_;
};

// Major and minor version in "1.31.1" as one number, 0 for what is none.
int number_of(const std::string& version) {
  int major = 0, minor = 0;
  return std::sscanf(version.c_str(), "%d.%d", &major, &minor) == 2 ? major * 1000 + minor : 0;
}

}  // namespace

OrtLibrary& OrtLibrary::get(const std::string& named) {
  static std::mutex one;
  static OrtLibrary* library = nullptr;  // never released: its threads may outlive whatever would do that
  const std::lock_guard<std::mutex> lock(one);
  if (library == nullptr) {
    const NoTelemetry block;
    library = new OrtLibrary(named);
  } else if (!named.empty() && !library->file_.is(named)) {
    throw Error(usage, "this process has loaded ONNX Runtime from " + library->file_.path() + ", and " + named +
                           " was asked for: one process takes one");
  }
  return *library;
}

OrtLibrary::OrtLibrary(const std::string& named)
    : file_("ONNX Runtime", named, "E2E_DEPLOY_ONNXRUNTIME", {"libonnxruntime.so.1", "libonnxruntime.so"},
            "install it, or name its file in E2E_DEPLOY_ONNXRUNTIME or e2e_engine_options.onnxruntime") {
  using GetBase = const OrtApiBase*(ORT_API_CALL*)();
  const auto get_base = reinterpret_cast<GetBase>(file_.find("OrtGetApiBase"));
  if (get_base == nullptr) throw Error(unavailable, file_.path() + " is not ONNX Runtime: it has no OrtGetApiBase");
  version_ = get_base()->GetVersionString();
  // Asked first, because GetApi prints where it has no such version.
  if (number_of(version_) >= 1020) api_ = get_base()->GetApi(api_version);
  if (api_ == nullptr) {
    throw Error(unavailable, "ONNX Runtime " + version_ + " in " + file_.path() + " is too old; " + needed +
                                 " is needed");
  }
  check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "e2e_deploy", &env_), "ONNX Runtime does not start", unavailable);
  check(api_->DisableTelemetryEvents(env_), "ONNX Runtime does not start", unavailable);
}

void OrtLibrary::check(OrtStatus* status, const std::string& what, Code code) const {
  if (status == nullptr) return;
  const std::string raw = api_->GetErrorMessage(status), said = cleaned(raw);
  api_->ReleaseStatus(status);
  for (const char* memory : {"Available memory of", "Failed to allocate", "bad_alloc", "bad allocation", "out of memory",
                             "can't allocate memory"}) {
    if (raw.find(memory) != std::string::npos) {
      throw Error(unavailable, what + ", for it needs more memory than is free here: export for smaller pictures or "
                                      "another precision, or free some (" + said + ")");
    }
  }
  throw Error(code, what + ": " + said);
}

bool OrtLibrary::share_arena(size_t bytes) {
  const char* const keys[] = {"max_mem", "arena_extend_strategy", "initial_chunk_size_bytes", "max_dead_bytes_per_chunk"};
  constexpr size_t as_ever = static_cast<size_t>(-1);  // as of ONNX Runtime's own arenas
  const size_t values[] = {bytes, as_ever, as_ever, as_ever};
  OrtArenaCfg* settings = nullptr;
  OrtMemoryInfo* memory = nullptr;
  OrtStatus* status = api_->CreateArenaCfgV2(keys, values, 4, &settings);
  if (status == nullptr) status = api_->CreateMemoryInfo("Cpu", OrtArenaAllocator, 0, OrtMemTypeDefault, &memory);
  if (status == nullptr) status = api_->CreateAndRegisterAllocator(env_, memory, settings);
  const bool done = status == nullptr;
  if (!done) api_->ReleaseStatus(status);  // older ones refuse a second arena
  if (memory != nullptr) api_->ReleaseMemoryInfo(memory);
  if (settings != nullptr) api_->ReleaseArenaCfg(settings);
  return done;
}

}  // namespace e2e
