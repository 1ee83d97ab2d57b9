#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <set>

#include "json.hpp"
#include "onnx.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace e2e {
namespace {

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts;
  for (size_t at = 0; at <= name.size();) {
    const size_t end = std::min(name.find('/', at), name.size());
    const std::string part = name.substr(at, end - at);
    if (!part.empty() && part != ".") parts.push_back(part);
    at = end + 1;
  }
  return parts;
}

// The name, from the top of the bundle, of ``location`` beside the file ``onnx``.
std::string beside(const std::string& onnx, const std::string& location) {
  const size_t slashes = std::min(location.find_first_not_of('/'), location.size());
  if (slashes) return std::string(slashes == 2 ? 2 : 1, '/') + joined(parts_of(location), "/");
  std::vector<std::string> parts = parts_of(onnx);
  if (!parts.empty()) parts.pop_back();
  const std::vector<std::string> more = parts_of(location);
  parts.insert(parts.end(), more.begin(), more.end());
  return parts.empty() ? "." : joined(parts, "/");
}

bool is_plain(const std::string& name) {
  const auto is_good = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           std::string("._+ /-").find(c) != std::string::npos;
  };
  return !name.empty() && name[0] != '/' && std::all_of(name.begin(), name.end(), is_good);
}

Error not_exported(const std::string& root, const std::string& name) {
  return Error(input, name + " of " + root + " is not the file that was exported: its size or SHA-256 differs");
}

Error not_readable(const std::string& root, const std::string& name, const FileError& error) {
  if (error.number == ENOENT) return Error(input, root + " is incomplete: " + name + " is missing");
  return Error(input, name + " of " + root + " cannot be read: " + error.reason);
}

// The identity of a listed file whose size and, unless that is skipped, hash are the listed ones.
Identity checked(const std::string& root, const std::string& name, const FileEntry& entry, bool hash_check) {
  const std::string path = safe_path(root, name);
  try {
    const File file(path, false);
    const Identity found = file.identity();
    if (file.size() != entry.bytes || (hash_check && file.sha256() != entry.sha256) || file.identity() != found)
      throw not_exported(root, name);
    return found;
  } catch (const FileError& error) {
    throw not_readable(root, name, error);
  }
}

std::string read_manifest_text(const std::string& root) {
  const std::string path = root + "/" + manifest_name;
  try {
    const File file(path, true);
    uint64_t size = file.size();
    std::string text(static_cast<size_t>(std::min<uint64_t>(size, max_json_bytes) + 1), '\0');
    if (size <= max_json_bytes) text.resize(file.read(text.data(), text.size()));
    size = std::max<uint64_t>(size, text.size());
    if (size > max_json_bytes)
      throw FileError{EFBIG, "it holds " + grouped(size) + " bytes, and at most " +
                                 grouped(max_json_bytes) + " are read"};
    return text;
  } catch (const FileError& error) {
    if (error.number == ENOENT || error.number == ENOTDIR)
      throw Error(input, root + " is not a bundle: it " +
                             (is_there(root) ? std::string("has no ") + manifest_name : "does not exist") +
                             "; e2e-deploy export writes one");
    throw Error(input, path + " cannot be read: " + error.reason);
  }
}

}  // namespace

std::string safe_path(const std::string& root, const std::string& name) {
  const std::vector<std::string> parts = parts_of(name);
  // Plain names only: ONNX Runtime gives a meaning of its own to some others, such as */_ORT_MEM_ADDR_/*.
  if (!is_plain(name) || std::find(parts.begin(), parts.end(), "..") != parts.end())
    throw Error(input, "the bundle names the path " + quoted(name) +
                           ", which leaves its folder or is no plain file name");
  std::string path = root;
  for (const std::string& part : parts) {
    path += "/" + part;
    if (is_link(path)) throw Error(input, name + " is reached through a link; a bundle holds plain files only");
  }
  return path;
}

Bundle Bundle::open(const std::string& path, bool hash_check) {
  Bundle bundle;
  bundle.root_ = path.empty() ? "." : path;  // as Python's Path has it
  while (bundle.root_.size() > 1 && bundle.root_.back() == '/') bundle.root_.pop_back();
  bundle.manifest_ = parse_manifest(read_manifest_text(bundle.root_));
  const Manifest& manifest = bundle.manifest_;
  for (const auto& [name, entry] : manifest.files)
    bundle.identities_[name] = checked(bundle.root_, name, entry, hash_check);
  for (const Plan& plan : manifest.plans) bundle.file(plan.file);
  for (const Graph& graph : manifest.graphs) bundle.file(graph.reference);
  std::map<std::string, std::string> targets;
  for (const Graph& graph : manifest.graphs) targets[graph.onnx] = "";
  for (const Graph& graph : manifest.graphs)
    for (const Variant& variant : graph.variants) targets.emplace(variant.onnx, variant.target);
  for (const auto& [name, target] : targets) bundle.check_graph_file(name, target);
  return bundle;
}

void Bundle::check_graph_file(const std::string& onnx, const std::string& target) const {
  file(onnx);
  if (manifest_.files.at(onnx).bytes > largest_graph)
    throw Error(input, onnx + " is larger than the " + std::to_string(largest_graph) + " bytes an ONNX file may have");
  const std::vector<uint8_t> data = read(onnx);
  std::map<std::string, uint64_t> weights;
  for (const std::string& location : locations_in(onnx, {data.data(), data.size()})) {
    // Runtimes look beside the graph, which need not lie at the top of the bundle.
    const std::string name = beside(onnx, location);
    safe_path(root_, name);
    const auto listed = manifest_.files.find(name);
    if (listed == manifest_.files.end())
      throw Error(input, onnx + " takes weights from " + quoted(location) + ", which the manifest does not list");
    weights[location] = listed->second.bytes;
  }
  check_graph(onnx, {data.data(), data.size()}, weights, target);
}

std::string Bundle::file(const std::string& name) const {
  if (!manifest_.files.count(name)) throw Error(input, name + " is not listed in the manifest of " + root_);
  return safe_path(root_, name);
}

std::vector<uint8_t> Bundle::read(const std::string& name, bool hash_again) const {
  const std::string path = file(name);
  const FileEntry& entry = manifest_.files.at(name);
  try {
    const File stream(path, false);
    const Identity found = stream.identity();
    if (stream.size() != entry.bytes) throw not_exported(root_, name);
    std::vector<uint8_t> data(static_cast<size_t>(entry.bytes));
    uint8_t more;
    const bool is_whole = stream.read(data.data(), data.size()) == data.size() && stream.read(&more, 1) == 0;
    const auto known = identities_.find(name);
    const bool is_known = known != identities_.end() && found == known->second && found == stream.identity();
    if (!is_whole || ((hash_again || !is_known) && sha256(data.data(), data.size()) != entry.sha256))
      throw not_exported(root_, name);
    return data;
  } catch (const FileError& error) {
    throw Error(input, name + " of " + root_ + " cannot be read: " + error.reason);
  }
}

std::vector<std::string> Bundle::weights_of(const std::string& onnx) const {
  const std::vector<uint8_t> data = read(onnx);
  std::set<std::string> names;
  for (const std::string& location : locations_in(onnx, {data.data(), data.size()}))
    names.insert(beside(onnx, location));
  return {names.begin(), names.end()};
}

const Graph& Bundle::graph_for(Size frame) const {
  std::vector<std::string> held;
  for (const Graph& graph : manifest_.graphs) {
    if (graph.frame_size == frame) return graph;
    held.push_back(by(graph.frame_size.height, graph.frame_size.width));
  }
  throw Error(usage, "the bundle has no graph for frames of " + by(frame.height, frame.width) +
                         " (height x width); it has " + joined(held, ", ") + "; export with `frame_sizes=[(" +
                         std::to_string(frame.height) + ", " + std::to_string(frame.width) + ")]`");
}

std::string Bundle::graph_digest(const std::string& onnx) const {
  const auto hash_of = [this](const std::string& name) {
    file(name);
    return manifest_.files.at(name).sha256;
  };
  std::string text = hash_of(onnx);
  const std::vector<uint8_t> data = read(onnx);
  for (const std::string& location : locations_in(onnx, {data.data(), data.size()}))
    text += "\n" + location + " " + hash_of(beside(onnx, location));
  return sha256(text.data(), text.size());
}

std::map<std::string, Identity> Bundle::before(const std::vector<std::string>& names) const {
  std::map<std::string, Identity> identities;
  for (const std::string& name : names) {
    const std::string path = file(name);
    const auto known = identities_.find(name);
    const bool is_known = known != identities_.end() && identity_of(path) == known->second;
    identities[name] = is_known ? known->second : checked(root_, name, manifest_.files.at(name), true);
  }
  return identities;
}

void Bundle::after(const std::map<std::string, Identity>& identities) const {
  for (const auto& [name, identity] : identities)
    if (identity_of(file(name)) != identity)
      throw Error(input, name + " of " + root_ + " was changed while it was loaded");
}

}  // namespace e2e
