#include "facts.hpp"

#include <nlohmann/json.hpp>

namespace e2e {
namespace {

using Json = nlohmann::ordered_json;

Json output_facts(const Kind& kind, const Tensor& tensor) {
  return {{"name", tensor.name},   {"kind", kind.name},         {"form", kind.form},
          {"shape", tensor.shape}, {"dtype", tensor.dtype},     {"range", {kind.low, kind.high}},
          {"units", kind.units},   {"meaning", kind.meaning},   {"power", kind.power},
          {"linear", kind.is_linear}};
}

Json graph_facts(const Graph& graph, const std::vector<const Kind*>& kinds) {
  Json outputs = Json::array();
  for (size_t i = 0; i < kinds.size(); ++i) outputs.push_back(output_facts(*kinds[i], graph.outputs.at(i)));
  return {{"kind", graph.kind},
          {"frame_size", {graph.frame_size.height, graph.frame_size.width}},
          {"processing_size", {graph.processing_size.height, graph.processing_size.width}},
          {"batch", graph.batch()},
          {"onnx", graph.onnx},
          {"outputs", outputs}};
}

}  // namespace

std::string facts_of(const Manifest& manifest) {
  const std::vector<const Kind*> kinds = manifest.result_kinds();
  Json graphs = Json::array(), plans = Json::array();
  for (const Graph& graph : manifest.graphs) graphs.push_back(graph_facts(graph, kinds));
  for (const Plan& plan : manifest.plans) {
    plans.push_back({{"file", plan.file},
                     {"backend", plan.backend},
                     {"version", plan.version},
                     {"target", plan.target},
                     {"gpu", plan.gpu},
                     {"precision", plan.precision},
                     {"frame_size", {plan.frame_size.height, plan.frame_size.width}}});
  }
  const Json facts = {
      {"task", manifest.task},
      {"outputs", manifest.outputs},
      {"family", manifest.family},
      {"settings", manifest.settings},
      {"checkpoint",
       {{"id", manifest.checkpoint_id}, {"sha256", manifest.checkpoint_sha256}, {"note", manifest.checkpoint_note}}},
      {"precision", manifest.precision},
      {"resolution", manifest.resolution},
      {"opset", manifest.opset},
      {"graphs", graphs},
      {"plans", plans},
      {"notes", manifest.notes},
      {"versions", manifest.versions},
      {"created", manifest.created}};
  return facts.dump(2, ' ', false, Json::error_handler_t::replace);
}

}  // namespace e2e
