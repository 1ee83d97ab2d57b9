#include "../error.hpp"
#include "onnx.hpp"

namespace e2e {
namespace {

enum Message { model, training, function, graph, node, attribute, sparse, tensor, entry, none };

constexpr int deepest = 100;  // messages inside each other, as protocol buffers' own parsers have it
constexpr const char* names[] = {"model", "training", "function", "graph", "node", "attribute", "sparse", "tensor"};

// Parts of a node, of the graph, of anything else; bytes beside the values of tensors.
constexpr size_t max_node_fields = 256, max_graph_fields = 100000, max_fields = 1000;
constexpr size_t max_beside = 16777216;
constexpr uint64_t raw_data = 9;  // of a tensor: values, which are read where they lie

// What a file holds more of than any graph of ours.
struct TooMuch {
  std::string what;
};

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

// Walks the messages that lead to tensors, and counts what it passes: an empty input of a node is two bytes in the file
// and a hundred in memory, here and in every parser.
struct Reader {
  std::set<std::string> locations;
  size_t beside = 0;

  void read(Bytes data, Message message, int depth) {
    if (depth > deepest) throw WireError("it is nested too deep");
    const size_t most = message == node ? max_node_fields : message == graph ? max_graph_fields : max_fields;
    size_t count = 0;
    wire_fields(data, [&](const Field& field) {
      if (count++ == most)
        throw TooMuch{std::string("a ") + names[message] + " of more than " + std::to_string(most) + " parts"};
      beside += 2;
      if (!field.has_bytes) return;
      const Message inner = inside(message, field.number);
      const bool is_values = message == tensor && field.number == raw_data;
      if ((inner == none || inner == entry) && !is_values) beside += field.bytes.size;
      if (beside > max_beside)
        throw TooMuch{"more than " + std::to_string(max_beside) + " bytes beside the values of its tensors"};
      if (inner == entry)
        read_entry(field.bytes);
      else if (inner != none)
        read(field.bytes, inner, depth + 1);
    });
  }

  void read_entry(Bytes data) {
    Field key{1, false, {}, 0}, value{2, false, {}, 0};
    wire_fields(data, [&](const Field& part) {
      if (part.has_bytes && part.number == 1) key = part;
      if (part.has_bytes && part.number == 2) value = part;
    });
    static const std::string location = "location";
    const auto* text = reinterpret_cast<const char*>(key.bytes.data);
    if (key.has_bytes && std::string(text, key.bytes.size) == location) locations.insert(value.text());
  }
};

}  // namespace

std::set<std::string> locations_in(const std::string& name, Bytes data) {
  Reader reader;
  try {
    reader.read(data, model, 0);
  } catch (const TooMuch& found) {
    throw Error(input, name + " holds " + found.what +
                           "; it is not loaded: export the checkpoint again, or run the file with other tools if you "
                           "trust it");
  } catch (const WireError& error) {
    throw Error(input, name + " is not an ONNX file: " + error.what());
  }
  return reader.locations;
}

}  // namespace e2e
