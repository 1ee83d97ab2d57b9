// A bundle: the folder that export writes. The rules of e2e_deploy/bundle/bundle.py: the manifest is checked before a
// hash, the hashes before a parser sees a byte, and no path leaves the folder.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "../error.hpp"
#include "files.hpp"
#include "manifest.hpp"

namespace e2e {

class Bundle {
 public:
  // Open the bundle in the folder ``path`` after checking its manifest, the paths, and the hash of every file.
  // Without ``hash_check``, sizes and everything else are checked, for a folder that nobody else can write to.
  // Error (input): not a bundle, damaged, changed after it was written, or pointing outside itself.
  static Bundle open(const std::string& path, bool hash_check = true);

  const std::string& root() const { return root_; }
  const Manifest& manifest() const { return manifest_; }

  // Path of a listed file; Error (input) if it is not listed, leaves the folder or is reached through a link.
  std::string file(const std::string& name) const;

  // The bytes of a listed file. They are hashed, unless they are of the very file that ``open`` hashed.
  std::vector<uint8_t> read(const std::string& name, bool hash_again = false) const;

  // Names of the listed files that hold weights of the listed graph file ``onnx``, beside its own; sorted.
  std::vector<std::string> weights_of(const std::string& onnx) const;

  // The graph of a frame size; Error (usage) where there is none.
  const Graph& graph_for(Size frame) const;

  // One hash, hex, for the listed graph file ``onnx`` and all its weights (graph_digest of plan_files.py).
  std::string graph_digest(const std::string& onnx) const;

  // Around a library that opens listed files by their paths: ``before`` hashes again what is not the file that
  // ``open`` hashed; ``after`` throws Error (input) where one of them is another file by then.
  std::map<std::string, Identity> before(const std::vector<std::string>& names) const;
  void after(const std::map<std::string, Identity>& identities) const;

 private:
  void check_graph_file(const std::string& onnx, const std::string& target) const;

  std::string root_;
  Manifest manifest_;
  std::map<std::string, Identity> identities_;
};

// The file ``name`` of the bundle at ``root``; Error (input) for a name that leaves it or a way through a link.
std::string safe_path(const std::string& root, const std::string& name);

// As ``safe_path``, of a file that only its owner can write, who is this user or root; the same holds for the
// manifest and the folders between. Error (input) otherwise: a plan is native code that would run as this user.
std::string require_private(const std::string& root, const std::string& name);

}  // namespace e2e
