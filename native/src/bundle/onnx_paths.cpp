#include "../error.hpp"
#include "onnx.hpp"

namespace e2e {
namespace {

enum Message { model, training, function, graph, node, attribute, sparse, tensor, entry, none };

constexpr int deepest = 100;  // messages inside each other, as protocol buffers' own parsers have it

// Only the ways that lead to a TensorProto; the field numbers are those of onnx.proto3.
Message inside(Message message, uint64_t number) {
  switch (message) {
    case model: return number == 7 ? graph : number == 20 ? training : number == 25 ? function : none;
    case training: return number == 1 || number == 2 ? graph : none;
    case function: return number == 7 ? node : number == 11 ? attribute : none;
    case graph: return number == 1 ? node : number == 5 ? tensor : number == 15 ? sparse : none;
    case node: return number == 5 ? attribute : none;
    case attribute:
      if (number == 5 || number == 10) return tensor;
      if (number == 6 || number == 11) return graph;
      return number == 22 || number == 23 ? sparse : none;
    case sparse: return number == 1 || number == 2 ? tensor : none;
    case tensor: return number == 13 ? entry : none;
    default: return none;
  }
}

void find(Bytes data, Message message, int depth, std::set<std::string>& found) {
  if (depth > deepest) throw WireError("it is nested too deep");
  wire_fields(data, [&](const Field& field) {
    const Message inner = field.has_bytes ? inside(message, field.number) : none;
    if (inner == none) return;
    if (inner != entry) return find(field.bytes, inner, depth + 1, found);
    Field key{1, false, {}, 0}, value{2, false, {}, 0};
    wire_fields(field.bytes, [&](const Field& part) {
      if (part.has_bytes && part.number == 1) key = part;
      if (part.has_bytes && part.number == 2) value = part;
    });
    static const std::string location = "location";
    const auto* text = reinterpret_cast<const char*>(key.bytes.data);
    if (key.has_bytes && std::string(text, key.bytes.size) == location) found.insert(value.text());
  });
}

}  // namespace

std::set<std::string> locations_in(const std::string& name, Bytes data) {
  std::set<std::string> found;
  try {
    find(data, model, 0, found);
  } catch (const WireError& error) {
    throw Error(input, name + " is not an ONNX file: " + error.what());
  }
  return found;
}

}  // namespace e2e
