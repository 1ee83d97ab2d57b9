#include "json.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "../error.hpp"
#include "text.hpp"

namespace e2e {
namespace {

constexpr int max_shown_level = 6;
constexpr size_t max_shown_items = 6, max_shown_keys = 4, max_shown_text = 80;

// Four hexadecimal digits at ``at``, or -1.
int hexadecimal(const std::string& text, size_t at) {
  if (at + 4 > text.size()) return -1;
  int value = 0;
  for (size_t i = at; i < at + 4; ++i) {
    if (!std::isxdigit(static_cast<unsigned char>(text[i]))) return -1;
    value = value * 16 + (text[i] <= '9' ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10);
  }
  return value;
}

// The parser takes neither what is no UTF-8 nor half a pair of surrogates, which other writers of JSON let through.
std::string repaired(const std::string& text) {
  const bool is_good = is_utf8(reinterpret_cast<const uint8_t*>(text.data()), text.size());
  std::string good = is_good ? text : encoded(decoded(text));
  for (size_t at = good.find('\\'); at != std::string::npos && at + 1 < good.size(); at = good.find('\\', at)) {
    const int unit = good[at + 1] == 'u' ? hexadecimal(good, at + 2) : -1;
    if (unit < 0xD800 || unit > 0xDFFF) {
      at += 2;
      continue;
    }
    const int second = good.compare(at + 6, 2, "\\u") == 0 ? hexadecimal(good, at + 8) : -1;
    if (unit < 0xDC00 && second >= 0xDC00 && second <= 0xDFFF) {
      at += 12;
      continue;
    }
    good.replace(at, 6, "\\ufffd");
    at += 6;
  }
  return good;
}

// Builds the value, and says in ``problem`` what ended that.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Json root;
  std::string problem;

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override {
    if (value == INT64_MIN) return refuse_digits(std::to_string(value));  // Python's bounds are the same both ways
    return add(value);
  }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return refuse_digits(std::to_string(value));
    return add(static_cast<number_integer_t>(value));
  }
  bool number_float(number_float_t value, const string_t& digits) override {
    if (digits.find_first_of(".eE") == string_t::npos) return refuse_digits(digits);
    return std::isfinite(value) ? add(value) : refuse("the number " + digits.substr(0, 20) + " is beyond 64 bits");
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return refuse("it is no text"); }
  bool start_object(std::size_t) override { return enter(Json::object()); }
  bool key(string_t& value) override {
    if (open_.back()->contains(value)) return refuse("the key " + quoted(value.substr(0, 40)) + " occurs twice");
    key_ = std::move(value);
    return true;
  }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(Json::array()); }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const bool is_beyond = std::string(error.what()).find("overflow") != std::string::npos;
    return refuse(is_beyond ? "a number is beyond 64 bits" : "it is none at byte " + std::to_string(position));
  }

 private:
  bool refuse(const std::string& what) {
    problem = what;
    return false;
  }
  bool refuse_digits(const std::string& digits) {
    return refuse("a number of " + std::to_string(digits.size()) + " digits is beyond 64 bits");
  }
  Json* put(Json&& value) {
    if (open_.empty()) return &(root = std::move(value));
    Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }
  bool is_one_too_many() {
    if (++values_ > max_json_values) refuse("it holds more than " + grouped(max_json_values) + " values");
    return values_ > max_json_values;
  }
  bool add(Json&& value) {
    if (is_one_too_many()) return false;
    put(std::move(value));
    return true;
  }
  bool enter(Json&& value) {
    if (is_one_too_many()) return false;
    if (open_.size() >= max_json_depth)
      return refuse("it is nested more than " + std::to_string(max_json_depth) + " deep");
    open_.push_back(put(std::move(value)));  // stays where it is while it is open: it is the last of its parent
    return true;
  }
  bool leave() {
    open_.pop_back();
    return true;
  }

  size_t values_ = 0;
  std::vector<Json*> open_;
  std::string key_;
};

const char* type_name(const Json& value) {
  if (value.is_null()) return "NoneType";
  if (value.is_boolean()) return "bool";
  if (value.is_string()) return "str";
  return value.is_array() ? "list" : value.is_number_float() ? "float" : "int";
}

std::string shown_text(const std::string& text) {
  const std::u32string whole = decoded(text);
  std::u32string quote = decoded(quoted(encoded(whole.substr(0, max_shown_text))));
  if (quote.size() <= max_shown_text) return encoded(quote);
  const size_t head = (max_shown_text - 3) / 2, tail = max_shown_text - 3 - head;
  const size_t last = whole.size() > tail ? whole.size() - tail : 0;
  quote = decoded(quoted(encoded(whole.substr(0, head) + whole.substr(last))));
  return encoded(quote.substr(0, head) + U"..." + quote.substr(quote.size() - tail));
}

std::string shown_at(const Json& value, int level) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  if (value.is_string()) return shown_text(value.get_ref<const std::string&>());
  if (!value.is_structured()) return value.dump();
  const bool is_list = value.is_array();
  if (level == 0) return is_list ? "[...]" : "{...}";
  std::vector<std::string> items;
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (items.size() == (is_list ? max_shown_items : max_shown_keys)) {
      items.push_back("...");
      break;
    }
    items.push_back((is_list ? "" : shown_text(item.key()) + ": ") + shown_at(*item, level - 1));
  }
  return (is_list ? "[" : "{") + joined(items, ", ") + (is_list ? "]" : "}");
}

}  // namespace

Json parse_json(const std::string& text, const std::string& name) {
  Builder builder;
  // The parser would skip the mark, and end at a zero byte; Python's does neither.
  const size_t zero = text.find('\0');
  if (text.compare(0, 3, "\xEF\xBB\xBF") == 0)
    builder.problem = "it begins with a byte order mark";
  else if (zero != std::string::npos)
    builder.problem = "it has a zero byte, number " + std::to_string(zero);
  if (!builder.problem.empty() || !Json::sax_parse(repaired(text), &builder))
    throw Error(input, name + " cannot be read as JSON: " + builder.problem);
  if (!builder.root.is_object())
    throw Error(input, name + " holds a " + type_name(builder.root) + "; expected a JSON object");
  return std::move(builder.root);
}

std::string shown(const Json& value) { return cleaned(shown_at(value, max_shown_level), 120); }

}  // namespace e2e
