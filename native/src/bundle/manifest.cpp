#include "manifest.hpp"

#include <algorithm>
#include <set>

#include "../error.hpp"
#include "names.hpp"
#include "records.hpp"
#include "text.hpp"

namespace e2e {
namespace {

constexpr int64_t max_shape = int64_t{1} << 31, max_pad = 2048, max_opset = 100;

template <size_t n>
Names names_of(const char* const (&table)[n]) {
  return Names(table, table + n);
}

Size read_size(Reader& reader, const Json& value, const std::string& name) {
  const auto sides = reader.integers(value, name, 1, max_side_px, 2, "height and width");
  return sides.size() == 2 ? Size{sides[0], sides[1]} : Size{};
}

void size(Record& record, Reader& reader, const char* key, Size& into) {
  record.field(key, [&](const Json& value, const std::string& name) { into = read_size(reader, value, name); });
}

std::string read_kind(Reader& reader, const Json& value, const std::string& name) {
  return reader.choice(value, name, names_of(result_kinds));
}

Tensor read_tensor(Reader& reader, const Json& value, const std::string& name) {
  Tensor tensor;
  Record record(reader, value, name + ".", {"name", "dtype", "shape", "meaning"});
  record.text("name", tensor.name);
  record.choice("dtype", tensor.dtype, names_of(dtypes));
  record.integers("shape", tensor.shape, free_side, max_shape);
  record.text("meaning", tensor.meaning);
  return tensor;
}

Variant read_variant(Reader& reader, const Json& value, const std::string& name) {
  Variant variant;
  Record record(reader, value, name + ".", {"target", "onnx", "operators"});
  record.choice("target", variant.target, names_of(graph_targets));
  record.text("onnx", variant.onnx);
  record.counts("operators", variant.operators);
  return variant;
}

Graph read_graph(Reader& reader, const Json& value, const std::string& name) {
  Graph graph;
  Record record(reader, value, name + ".",
                {"kind", "multiple_of", "frame_size", "processing_size", "onnx", "reference", "inputs", "outputs",
                 "variants"});
  record.choice("kind", graph.kind, names_of(graph_kinds));
  record.integer("multiple_of", graph.multiple_of, 0, max_side_px);
  size(record, reader, "frame_size", graph.frame_size);
  size(record, reader, "processing_size", graph.processing_size);
  record.text("onnx", graph.onnx);
  record.text("reference", graph.reference);
  record.list("inputs", graph.inputs, read_tensor);
  record.list("outputs", graph.outputs, read_tensor);
  record.list("variants", graph.variants, read_variant);
  return graph;
}

Plan read_plan(Reader& reader, const Json& value, const std::string& name) {
  Plan plan;
  Record record(reader, value, name + ".",
                {"file", "backend", "version", "target", "gpu", "cuda", "frame_size", "precision", "options", "seconds",
                 "layers"});
  record.text("file", plan.file);
  record.choice("backend", plan.backend, names_of(plan_kinds));
  record.text("version", plan.version);
  record.text("target", plan.target);
  record.text("gpu", plan.gpu);
  record.integer("cuda", plan.cuda, 0, max_count);
  size(record, reader, "frame_size", plan.frame_size);
  record.choice("precision", plan.precision, names_of(precisions));
  record.field("options", [&](const Json& options, const std::string& at) {
    reader.table(options, at, [](const std::string&, const Json&, const std::string&) {});
    plan.options = reader.anything(options).dump();
  });
  record.field("seconds", [&](const Json& v, const std::string& at) { plan.seconds = reader.number(v, at, true); });
  record.counts("layers", plan.layers);
  return plan;
}

// Passes and verifications are checked and not kept: nothing here needs them.
struct Checked {};

Checked check_pass(Reader& reader, const Json& value, const std::string& name) {
  Record record(reader, value, name + ".",
                {"name", "parameters_before", "parameters_after", "macs_before", "macs_after"});
  std::string text;
  int64_t count;
  record.text("name", text);
  record.integer("parameters_before", count, 0, max_count);
  record.integer("parameters_after", count, 0, max_count);
  record.integer("macs_before", count, 1, max_count);
  record.integer("macs_after", count, 0, max_count);
  return {};
}

Checked check_verification(Reader& reader, const Json& value, const std::string& name) {
  Record record(reader, value, name + ".",
                {"frame_size", "output", "backend", "precision", "parity", "passed", "speed"});
  Size frame_size;
  std::string text;
  size(record, reader, "frame_size", frame_size);
  record.text("output", text);
  record.text("backend", text);
  record.choice("precision", text, names_of(precisions));
  record.field("parity", [&](const Json& parity, const std::string& at) {
    reader.table(parity, at, [](const std::string&, const Json&, const std::string&) {});
  });
  record.field("passed", [&](const Json& passed, const std::string& at) { reader.boolean(passed, at); });
  record.field("speed", [&](const Json& speed, const std::string& at) {
    reader.table(speed, at, [&](const std::string&, const Json& ms, const std::string& in) {
      reader.number(ms, in, false);
    });
  });
  return {};
}

Checked check_cost(Reader& reader, const Json& value, const std::string& name) {
  Record record(reader, value, name + ".", {"frame_size", "output", "parity"});
  Size frame_size;
  std::string text;
  size(record, reader, "frame_size", frame_size);
  record.text("output", text);
  record.field("parity", [&](const Json& parity, const std::string& at) {
    reader.table(parity, at, [](const std::string&, const Json&, const std::string&) {});
  });
  return {};
}

Checked check_vae(Reader& reader, const Json& value, const std::string& name) {
  Record record(reader, value, name + ".", {"id", "sha256", "part", "costs"});
  std::string text;
  std::vector<Checked> costs;
  record.text("id", text);
  record.sha256("sha256", text);
  record.choice("part", text, names_of(vae_parts));
  record.list("costs", costs, check_cost);
  return {};
}

Manifest read_manifest(Reader& reader, const Json& value) {
  Manifest all;
  std::vector<Checked> others;
  int64_t read_schema;
  Record record(reader, value, "",
                {"task", "outputs", "family", "settings", "checkpoint", "vae", "resolution", "pad", "precision", "fp32_ops",
                 "opset", "graphs", "versions", "created", "passes", "plans", "verification", "notes", "files",
                 "schema"});
  record.choice("task", all.task, names_of(task_names));
  record.list("outputs", all.outputs, read_kind);
  record.text("family", all.family);
  record.words("settings", all.settings);
  record.field("checkpoint", [&](const Json& checkpoint, const std::string& at) {
    Record entry(reader, checkpoint, at + ".", {"id", "sha256", "note"});
    entry.text("id", all.checkpoint_id);
    entry.sha256("sha256", all.checkpoint_sha256);
    entry.text("note", all.checkpoint_note);
  });
  record.field("vae", [&](const Json& vae, const std::string& at) {
    if (!vae.is_null()) check_vae(reader, vae, at);
  });
  record.integer("resolution", all.resolution, 0, max_side_px);
  record.integer("pad", all.pad, 0, max_pad);
  record.choice("precision", all.precision, names_of(precisions));
  record.texts("fp32_ops", all.fp32_ops);
  record.integer("opset", all.opset, 1, max_opset);
  record.list("graphs", all.graphs, read_graph);
  record.words("versions", all.versions);
  record.text("created", all.created);
  record.list("passes", others, check_pass);
  record.list("plans", all.plans, read_plan);
  record.list("verification", others, check_verification);
  record.texts("notes", all.notes);
  record.field("files", [&](const Json& files, const std::string& at) {
    reader.table(files, at, [&](const std::string& key, const Json& file, const std::string& in) {
      int64_t bytes = 0;
      Record entry(reader, file, in + ".", {"bytes", "sha256"});
      entry.integer("bytes", bytes, 0, max_count);
      entry.sha256("sha256", all.files[key].sha256);
      all.files[key].bytes = static_cast<uint64_t>(bytes);
    });
  });
  record.integer("schema", read_schema, schema, schema);
  return all;
}

// Shapes that the input and a result of ``kind`` of ``graph`` must have, for ``batch`` pictures.
std::vector<int64_t> shape_of(const Graph& graph, int channels, int64_t batch, bool is_input) {
  const int64_t height = graph.frame_size.height, width = graph.frame_size.width;
  if (graph.multiple_of) return {batch, channels, free_side, free_side};
  if (graph.kind == "core") return {batch, channels, height, width};
  if (channels == 1 && !is_input) return {batch, height, width};
  return {batch, height, width, channels};
}

bool is_onnx(const std::string& name) { return name.size() >= 5 && name.compare(name.size() - 5, 5, ".onnx") == 0; }

// Refuse an entry whose fields contradict each other.
void check_graph(const Graph& graph, const std::vector<const Kind*>& kinds) {
  const std::string what = graph.onnx + " in the manifest ";
  if (graph.multiple_of && graph.kind != "core")
    throw Error(input, what + "is a " + graph.kind + " graph with sides that are multiples of " +
                           std::to_string(graph.multiple_of) + "; expected fixed sides for frames");
  const int64_t batch = graph.inputs.empty() || graph.inputs[0].shape.empty() ? 1 : graph.inputs[0].shape[0];
  if (batch < 1 || batch > max_batch)
    throw Error(input, what + "takes " + std::to_string(batch) + " pictures at once; expected 1 to " +
                           std::to_string(max_batch));
  const auto takes = shape_of(graph, 3, batch, true);
  bool is_good = graph.inputs.size() == 1 && graph.inputs[0].shape == takes && is_onnx(graph.onnx) &&
                 graph.outputs.size() == kinds.size();
  std::vector<std::string> told;
  for (size_t i = 0; i < kinds.size(); ++i) {
    const auto gives = shape_of(graph, kinds[i]->channels, batch, false);
    is_good = is_good && graph.outputs[i].name == kinds[i]->output && graph.outputs[i].dtype == "float32" &&
              graph.outputs[i].shape == gives;
    told.push_back("one output " + listed(gives) + ", float32 " + quoted(kinds[i]->output));
  }
  if (!is_good) {
    const std::string wanted = "one input " + listed(takes) + " and " + joined(told, " and ");
    throw Error(input, what + "must be an .onnx file with " + wanted);
  }
  std::set<std::string> targets;
  for (const Variant& variant : graph.variants) targets.insert(variant.target);
  if (targets.size() < graph.variants.size())
    throw Error(input, what + "has two variants for " + graph.variants[0].target);
  for (const Variant& variant : graph.variants)
    if (!is_onnx(variant.onnx) || variant.onnx == graph.onnx)
      throw Error(input, variant.onnx + " in the manifest must be an .onnx file of its own, for it is a variant of " +
                             graph.onnx);
}

}  // namespace

const std::string& Graph::file_for(const std::string& target) const {
  for (const Variant& variant : variants)
    if (variant.target == target) return variant.onnx;
  return onnx;
}

std::vector<const Kind*> Manifest::result_kinds() const {
  std::vector<const Kind*> found;
  for (const std::string& name : outputs) found.push_back(find_kind(name));
  return found;
}

Manifest parse_manifest(const std::string& text) {
  Json value = parse_json(text, manifest_name);
  const auto before = value.find("schema");
  if (before != value.end() && before->is_number() && *before == schema_before_vae) {
    value.emplace("vae", nullptr);  // unless it is there
    value["schema"] = schema;
  }
  const auto said = value.find("schema");
  if (said == value.end() || !said->is_number() || *said != schema) {
    const Json found = said == value.end() ? Json(nullptr) : *said;
    const std::string given = found.is_string() ? found.get<std::string>() : shown(found);
    throw Error(input, std::string(manifest_name) + " has schema " + cleaned(given, 40) + "; this version reads " +
                           std::to_string(schema_before_vae) + " and " + std::to_string(schema) +
                           ": export the bundle again");
  }
  Reader reader;
  Manifest manifest = read_manifest(reader, value);
  if (!reader.problems.empty()) {
    const size_t others = reader.problems.size() - 1;
    const std::string more = others ? " (and " + std::to_string(others) + " more)" : "";
    throw Error(input, std::string(manifest_name) + ": " + reader.problems[0] + more);
  }
  if (manifest.graphs.empty()) throw Error(input, "the manifest lists no graph");
  std::vector<std::string> outputs = manifest.outputs;
  if (outputs.empty() || std::set<std::string>(outputs.begin(), outputs.end()).size() < outputs.size()) {
    std::transform(outputs.begin(), outputs.end(), outputs.begin(), quoted);
    throw Error(input, std::string("outputs of ") + manifest_name + " are [" + joined(outputs, ", ") +
                           "]; expected one or more, each once");
  }
  for (const Graph& graph : manifest.graphs) check_graph(graph, manifest.result_kinds());
  return manifest;
}

}  // namespace e2e
