#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "../error.hpp"
#include "names.hpp"
#include "onnx.hpp"

namespace e2e {
namespace {

constexpr size_t max_nodes = 20000, max_function_nodes = 64, max_rank = 8;
constexpr double max_elements = 2147483648.0;  // of a tensor whose size a constant states
constexpr uint64_t type_float = 1, type_int64 = 7;
constexpr const char* microsoft = "com.microsoft";
constexpr const char* attention = "MultiHeadAttention";  // a graph may say itself what it is, as a function
constexpr const char* group_norm = "GroupNorm";          // only the variants for CUDA have it
constexpr const char* sparse_tensor = "a sparse tensor, which would be unpacked to any size";

// Their results are as large as an operand says: of constants alone they have no place in a graph.
const std::unordered_set<std::string> generators = {"Expand", "Pad", "Range", "Resize", "Tile"};

// What a graph holds that none of ours does.
struct Refused {
  std::string what;
};

// Bytes an element by DataType; 0 for one that no graph of ours has.
uint64_t width_of(uint64_t type) {
  switch (type) {
    case 2: case 3: case 9: return 1;
    case 10: case 16: return 2;
    case 1: case 6: return 4;
    case 7: return 8;
    default: return 0;
  }
}

uint64_t times(uint64_t a, uint64_t b) {
  return a && b > std::numeric_limits<uint64_t>::max() / a ? std::numeric_limits<uint64_t>::max() : a * b;
}

// What is declared of a TensorProto, and what is there.
struct TensorProto {
  std::string name;
  std::vector<int64_t> dims;
  uint64_t type = 0;
  Bytes raw;
  bool has_raw = false, is_external = false;
  uint64_t typed_bytes = 0;
  std::vector<int64_t> int64s;
  std::map<std::string, std::string> external;

  uint64_t num_elements() const {
    if (std::find(dims.begin(), dims.end(), 0) != dims.end()) return 0;
    uint64_t product = 1;
    for (int64_t side : dims) product = times(product, static_cast<uint64_t>(side));
    return product;
  }

  // How large it makes the result of a generator, as an operand of few values; 1 where it says nothing.
  double product() const {
    double all = 1.0;
    const auto take = [&all](double value) { all *= std::max(1.0, std::abs(value)); };
    if (is_external || num_elements() > 2 * max_rank) return 1.0;
    if (has_raw && (type == type_int64 || type == type_float)) {
      const size_t width = width_of(type);
      for (size_t at = 0; at + width <= raw.size; at += width) {
        int64_t whole;
        float real;
        std::memcpy(type == type_int64 ? static_cast<void*>(&whole) : &real, raw.data + at, width);
        take(type == type_int64 ? static_cast<double>(whole) : static_cast<double>(real));
      }
    } else {
      for (int64_t value : int64s) take(static_cast<double>(value));
    }
    return all;
  }
};

struct NodeProto {
  std::string op, domain, name;
  std::vector<std::string> inputs, outputs;
  std::vector<TensorProto> constants;
  std::map<std::string, int64_t> integers;

  std::string str() const {
    const std::string kind = domain.empty() ? op : domain + "." + op;
    return cleaned("the node " + (name.empty() ? "(without a name)" : name) + " (" + kind + ")", 120);
  }
  bool is(const char* its_domain, const char* its_op) const { return domain == its_domain && op == its_op; }
};

TensorProto read_tensor(Bytes data) {
  TensorProto tensor;
  wire_fields(data, [&](const Field& field) {
    switch (field.number) {
      case 1:
        numbers(field, [&](uint64_t value) {
          if (tensor.dims.size() == max_rank)
            throw WireError("a tensor has more than " + std::to_string(max_rank) + " sides");
          tensor.dims.push_back(static_cast<int64_t>(value));
        });
        break;
      case 2:
        if (!field.has_bytes) tensor.type = field.value;
        break;
      case 8: tensor.name = field.text(); break;
      case 9:
        if (field.has_bytes) tensor.raw = field.bytes, tensor.has_raw = true;
        break;
      case 13:
        if (field.has_bytes) {
          std::string key, value;
          wire_fields(field.bytes, [&](const Field& part) {
            if (part.number == 1) key = part.text();
            if (part.number == 2) value = part.text();
          });
          tensor.external[key] = value;
        }
        break;
      case 14: tensor.is_external = field.has_bytes || field.value != 0; break;
      case 4: case 5: case 7: case 10: case 11:  // values of the types that have fields of their own
        tensor.typed_bytes += field.has_bytes ? field.bytes.size : 8;
        if (field.number == 7)
          numbers(field, [&](uint64_t value) {  // product() reads no more
            if (tensor.int64s.size() < 2 * max_rank) tensor.int64s.push_back(static_cast<int64_t>(value));
          });
        break;
      default: break;
    }
  });
  return tensor;
}

// The tensors of an attribute, and its integer; graphs inside it are refused.
void read_attribute(Bytes data, NodeProto& node) {
  size_t tensors = 0;
  std::string name;
  bool has_integer = false;
  int64_t integer = 0;
  wire_fields(data, [&](const Field& field) {
    switch (field.number) {
      case 1: name = field.text(); break;
      case 3:
        if (!field.has_bytes) integer = static_cast<int64_t>(field.value), has_integer = true;
        break;
      case 6: case 11: throw Refused{"a graph inside a node, as loops and conditions have"};
      case 22: case 23: throw Refused{sparse_tensor};
      case 5: case 10:
        if (!field.has_bytes) break;
        if (++tensors > 1) throw Refused{"an attribute with more than one tensor"};  // parsers merge those of field 5
        node.constants.push_back(read_tensor(field.bytes));
        break;
      default: break;
    }
  });
  if (has_integer) node.integers[name] = integer;
}

NodeProto read_node(Bytes data) {
  NodeProto node;
  wire_fields(data, [&](const Field& field) {
    switch (field.number) {
      case 1: node.inputs.push_back(field.text()); break;
      case 2: node.outputs.push_back(field.text()); break;
      case 3: node.name = field.text(); break;
      case 4: node.op = field.text(); break;
      case 5:
        if (field.has_bytes) read_attribute(field.bytes, node);
        break;
      case 7:
        node.domain = field.text();
        if (node.domain == "ai.onnx") node.domain.clear();
        break;
      default: break;
    }
  });
  return node;
}

// Refuse an operator that is neither one of the standard's that we use nor ONNX Runtime's own where they may stand.
void check_operator(const NodeProto& node, bool is_in_function, const std::string& target) {
  if (node.domain.empty() && (onnx_operators().count(node.op) || onnx_int8_operators().count(node.op))) return;
  if (!is_in_function && node.is(microsoft, attention)) return;
  if (!is_in_function && target == graph_targets[0] && node.is(microsoft, group_norm)) return;
  throw Refused{node.str() + ", which is no operator of our graphs"};
}

// A whole number in decimal digits; WireError otherwise.
int64_t number_in(const std::map<std::string, std::string>& table, const char* key) {
  const auto found = table.find(key);
  const std::string text = found == table.end() ? "0" : found->second;
  const std::string digits = text.substr(text[0] == '-');
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos)
    throw WireError(std::string("the ") + key + " of a tensor is no number");
  return std::strtoll(text.c_str(), nullptr, 10);
}

// Refuse a tensor that is larger than what is there to fill it.
void check_tensor(const TensorProto& tensor, const std::map<std::string, uint64_t>& weights) {
  const std::string name = "the tensor " + cleaned(tensor.name.empty() ? "(without a name)" : tensor.name, 80);
  const uint64_t width = width_of(tensor.type);
  if (!width) throw Refused{name + " of a type no graph of ours has (number " + std::to_string(tensor.type) + ")"};
  for (int64_t side : tensor.dims)
    if (side < 0) throw Refused{name + " with a negative side"};
  const uint64_t elements = tensor.num_elements(), needed = times(elements, width);
  uint64_t held;
  bool is_there;
  if (tensor.is_external) {
    const int64_t offset = number_in(tensor.external, "offset"), length = number_in(tensor.external, "length");
    const auto begin = static_cast<uint64_t>(offset), given = static_cast<uint64_t>(length);
    const auto location = tensor.external.find("location");
    const auto file = weights.find(location == tensor.external.end() ? "" : location->second);
    held = file == weights.end() ? 0 : file->second;
    is_there = offset >= 0 && begin <= held && needed <= held - begin && (length == 0 || given == needed);
  } else if (tensor.has_raw) {
    held = tensor.raw.size;
    is_there = held == needed;
  } else {  // typed values take a byte at least
    held = tensor.typed_bytes;
    is_there = elements <= held;
  }
  if (!is_there)
    throw Refused{name + " of " + std::to_string(needed) + " bytes, for which " + std::to_string(held) + " are there"};
}

using Constants = std::unordered_map<std::string, const TensorProto*>;

// Refuse groups that ONNX Runtime would divide by zero for, while it loads: it checks them when it runs.
void check_group_norm(const NodeProto& node, const Constants& tensors) {
  const auto found = node.integers.find("groups");
  const int64_t groups = found == node.integers.end() ? 0 : found->second;
  std::vector<const TensorProto*> weights;
  for (size_t i = 1; i < node.inputs.size(); ++i)
    if (const auto each = tensors.find(node.inputs[i]); each != tensors.end()) weights.push_back(each->second);
  if (node.inputs.size() != 3 || weights.size() != 2) throw Refused{node.str() + ", whose weights are no constants"};
  for (const TensorProto* each : weights)
    if (each->dims.size() != 1 || groups < 1 || groups > each->dims[0])
      throw Refused{node.str() + " of " + std::to_string(groups) + " groups, which its channels do not have"};
}

// Refuse results that are as large as constants say, and that no frame goes into or that no memory holds.
void check_generators(const std::vector<NodeProto>& nodes, Constants constants) {
  std::unordered_set<std::string> fixed = {""};
  for (const auto& each : constants) fixed.insert(each.first);
  for (const NodeProto& node : nodes) {
    if (node.op != "Constant") continue;
    fixed.insert(node.outputs.begin(), node.outputs.end());
    for (size_t i = 0; i < std::min(node.outputs.size(), node.constants.size()); ++i)
      constants[node.outputs[i]] = &node.constants[i];
  }
  for (const NodeProto& node : nodes) {  // in the order of computation, as ONNX wants them
    const bool is_generator = generators.count(node.op) != 0;
    const auto is_fixed = [&](const std::string& name) { return fixed.count(name) != 0; };
    if (std::all_of(node.inputs.begin(), node.inputs.end(), is_fixed)) {
      fixed.insert(node.outputs.begin(), node.outputs.end());
      if (is_generator) throw Refused{node.str() + ", which makes a constant while the graph is loaded"};
    }
    if (!is_generator && node.op != "Reshape") continue;
    double largest = 0;
    for (size_t i = 1; i < node.inputs.size(); ++i)
      if (const auto each = constants.find(node.inputs[i]); each != constants.end())
        largest = std::max(largest, each->second->product());
    if (!(largest <= max_elements)) {
      char count[400];
      std::snprintf(count, sizeof count, "%.0f", largest);
      throw Refused{node.str() + ", whose result would have " + count + " numbers"};
    }
  }
}

void check_function(Bytes data, const std::map<std::string, uint64_t>& weights) {
  std::string domain, name;
  std::vector<NodeProto> nodes;
  size_t count = 0;
  wire_fields(data, [&](const Field& field) {
    if (field.number == 1) name = field.text();
    if (field.number == 10) domain = field.text();
    if (field.number == 11) throw Refused{"a function whose attributes have values"};
    if (field.number == 7 && field.has_bytes && ++count <= max_function_nodes) nodes.push_back(read_node(field.bytes));
  });
  if (domain != microsoft || name != attention || count > max_function_nodes)
    throw Refused{cleaned("the function " + domain + "." + name + " of " + std::to_string(count) + " nodes", 120)};
  for (const NodeProto& node : nodes) {
    check_operator(node, true, "");
    for (const TensorProto& tensor : node.constants) check_tensor(tensor, weights);
  }
}

void check(Bytes data, const std::map<std::string, uint64_t>& weights, const std::string& target) {
  std::vector<NodeProto> nodes;
  std::vector<TensorProto> tensors;
  wire_fields(data, [&](const Field& field) {
    if (field.number == 20) throw Refused{"a graph for training"};
    if (field.number == 25 && field.has_bytes) check_function(field.bytes, weights);
    if (field.number != 7 || !field.has_bytes) return;
    wire_fields(field.bytes, [&](const Field& part) {
      if (part.number == 15) throw Refused{sparse_tensor};
      if (part.number == 1 && part.has_bytes) nodes.push_back(read_node(part.bytes));
      if (part.number == 5 && part.has_bytes) tensors.push_back(read_tensor(part.bytes));
      if (std::max(nodes.size(), tensors.size()) > max_nodes)
        throw Refused{"more than " + std::to_string(max_nodes) + " nodes or tensors"};
    });
  });
  Constants by_name;
  for (const TensorProto& tensor : tensors) by_name[tensor.name] = &tensor;
  for (const NodeProto& node : nodes) {
    check_operator(node, false, target);
    if (node.is(microsoft, group_norm)) check_group_norm(node, by_name);
  }
  for (const TensorProto& tensor : tensors) check_tensor(tensor, weights);
  for (const NodeProto& node : nodes)
    for (const TensorProto& tensor : node.constants) check_tensor(tensor, weights);
  check_generators(nodes, std::move(by_name));
}

}  // namespace

const std::set<std::string>& onnx_operators() {
  static const std::set<std::string> names = {
      "Abs", "Add", "Atan", "Attention", "Cast", "Clip", "Concat", "Constant", "Conv", "Cos", "DepthToSpace", "Div",
      "Erf", "Expand", "Gather", "Gelu", "Gemm", "GroupNormalization", "Identity", "InstanceNormalization",
      "LayerNormalization", "Less", "MatMul", "Max", "Min", "Mul", "Neg", "Pad", "Pow", "Range", "Reciprocal",
      "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize",
      "Shape", "Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Swish", "Tanh", "Tile",
      "Transpose", "Unsqueeze", "Where"};
  return names;
}

const std::set<std::string>& onnx_int8_operators() {
  static const std::set<std::string> names = {"QuantizeLinear", "DequantizeLinear"};
  return names;
}

void check_graph(const std::string& name, Bytes data, const std::map<std::string, uint64_t>& weights,
                 const std::string& target) {
  try {
    check(data, weights, target);
  } catch (const Refused& refused) {
    throw Error(input, name + " holds " + refused.what +
                           "; it is not loaded: export the checkpoint again, or run the file with other tools if you "
                           "trust it");
  } catch (const WireError& error) {
    throw Error(input, name + " is not an ONNX file: " + cleaned(error.what()));
  }
}

}  // namespace e2e
