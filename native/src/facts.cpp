#include "facts.hpp"

#include <cstdio>
#include <locale>
#include <sstream>

namespace e2e {
namespace {

// Written by hand: the JSON library that reads manifests takes seconds to compile for what is a dozen lines here.
std::string quoted_json(const std::string& text) {
  std::string json = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      json += '\\';
      json += c;
    } else if (byte < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned int>(byte));
      json += escape;
    } else {
      json += c;
    }
  }
  return json + "\"";
}

std::string json_of(const std::string& text) { return quoted_json(text); }
std::string json_of(const char* text) { return quoted_json(text); }
std::string json_of(bool value) { return value ? "true" : "false"; }
std::string json_of(int64_t value) { return std::to_string(value); }
std::string json_of(double value) {  // of the table of kinds: short and finite
  std::ostringstream text;
  text.imbue(std::locale::classic());  // the program's own may write a comma
  text << value;
  return text.str();
}
std::string json_of(Size size) { return "[" + json_of(size.height) + ", " + json_of(size.width) + "]"; }

template <typename T>
std::string json_of(const std::vector<T>& items) {
  std::string json;
  for (const T& item : items) json += (json.empty() ? "" : ", ") + json_of(item);
  return "[" + json + "]";
}

class Object {
 public:
  template <typename T>
  Object& with(const std::string& name, const T& value) {
    return with_json(name, json_of(value));
  }
  Object& with_json(const std::string& name, const std::string& value) {
    json_ += (json_.empty() ? "" : ", ") + quoted_json(name) + ": " + value;
    return *this;
  }
  std::string text() const { return "{" + json_ + "}"; }

 private:
  std::string json_;
};

Object object_of(const std::map<std::string, std::string>& entries) {
  Object object;
  for (const auto& [name, value] : entries) object.with(name, value);
  return object;
}

std::string listed(const std::vector<Object>& objects) {
  std::string json;
  for (const Object& object : objects) json += (json.empty() ? "" : ", ") + object.text();
  return "[" + json + "]";
}

Object output_facts(const Kind& kind, const Tensor& tensor) {
  return Object()
      .with("name", tensor.name)
      .with("kind", kind.name)
      .with("form", kind.form)
      .with("shape", tensor.shape)
      .with("dtype", tensor.dtype)
      .with("range", std::vector<double>{kind.low, kind.high})
      .with("units", kind.units)
      .with("meaning", kind.meaning)
      .with("power", kind.power)
      .with("linear", kind.is_linear);
}

Object graph_facts(const Graph& graph, const std::vector<const Kind*>& kinds) {
  std::vector<Object> outputs;
  for (size_t i = 0; i < kinds.size(); ++i) outputs.push_back(output_facts(*kinds[i], graph.outputs.at(i)));
  return Object()
      .with("kind", graph.kind)
      .with("frame_size", graph.frame_size)
      .with("processing_size", graph.processing_size)
      .with("batch", graph.batch())
      .with("onnx", graph.onnx)
      .with_json("outputs", listed(outputs));
}

Object plan_facts(const Plan& plan) {
  return Object()
      .with("file", plan.file)
      .with("backend", plan.backend)
      .with("version", plan.version)
      .with("target", plan.target)
      .with("gpu", plan.gpu)
      .with("precision", plan.precision)
      .with("frame_size", plan.frame_size);
}

}  // namespace

std::string facts_of(const Manifest& manifest) {
  const std::vector<const Kind*> kinds = manifest.result_kinds();
  std::vector<Object> graphs, plans;
  for (const Graph& graph : manifest.graphs) graphs.push_back(graph_facts(graph, kinds));
  for (const Plan& plan : manifest.plans) plans.push_back(plan_facts(plan));
  const Object checkpoint = Object()
                                .with("id", manifest.checkpoint_id)
                                .with("sha256", manifest.checkpoint_sha256)
                                .with("note", manifest.checkpoint_note);
  return Object()
      .with("task", manifest.task)
      .with("outputs", manifest.outputs)
      .with("family", manifest.family)
      .with_json("settings", object_of(manifest.settings).text())
      .with_json("checkpoint", checkpoint.text())
      .with("precision", manifest.precision)
      .with("resolution", manifest.resolution)
      .with("opset", manifest.opset)
      .with_json("graphs", listed(graphs))
      .with_json("plans", listed(plans))
      .with("notes", manifest.notes)
      .with_json("versions", object_of(manifest.versions).text())
      .with("created", manifest.created)
      .text();
}

}  // namespace e2e
