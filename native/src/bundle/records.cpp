#include "records.hpp"

#include <algorithm>
#include <cmath>

#include "text.hpp"

namespace e2e {
namespace {

constexpr size_t max_items = 10000, max_problems = 100;

std::string of_type(const Json& value, const char* type) {
  return " is " + shown(value) + "; expected a value of type " + type;
}

}  // namespace

void Reader::wrong(const std::string& problem) {
  if (problems.size() < max_problems) problems.push_back(problem);
}

std::string Reader::text(const Json& value, const std::string& name) {
  if (value.is_string()) return cleaned_text(value.get_ref<const std::string&>());
  wrong(name + of_type(value, "str"));
  return {};
}

std::string Reader::choice(const Json& value, const std::string& name, const Names& names) {
  if (value.is_string()) {
    const auto& given = value.get_ref<const std::string&>();
    if (std::find(names.begin(), names.end(), given) != names.end()) return given;
  }
  std::vector<std::string> words(names.begin(), names.end());
  const bool is_long = words.size() > 4;
  if (!is_long) std::transform(words.begin(), words.end(), words.begin(), quoted);
  const std::string known = is_long ? "one of " + joined(words, ", ") : joined(words, " or ");
  wrong(name + " is " + shown(value) + "; expected " + known);
  return {};
}

std::string Reader::sha256(const Json& value, const std::string& name) {
  if (!value.is_string()) return text(value, name);
  const auto& given = value.get_ref<const std::string&>();
  const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (given.size() == 64 && std::all_of(given.begin(), given.end(), is_digit)) return given;
  wrong(name + " is " + shown(value) + "; expected 64 hexadecimal digits");
  return {};
}

int64_t Reader::integer(const Json& value, const std::string& name, int64_t low, int64_t high) {
  if (!value.is_number_integer()) {
    wrong(name + of_type(value, "int"));
    return low;
  }
  const auto given = value.get<int64_t>();
  if (given >= low && given <= high) return given;
  wrong(name + " is " + shown(value) + "; expected at least " + short_number(static_cast<double>(low), 6) +
        " and at most " + short_number(static_cast<double>(high), 15));
  return low;
}

double Reader::number(const Json& value, const std::string& name, bool is_positive) {
  if (!value.is_number()) {
    wrong(name + of_type(value, "float"));
    return 0;
  }
  const auto given = value.get<double>();
  if (is_positive && given < 0) wrong(name + " is " + shown(value) + "; expected at least 0");
  return given;
}

bool Reader::boolean(const Json& value, const std::string& name) {
  if (value.is_boolean()) return value.get<bool>();
  wrong(name + of_type(value, "bool"));
  return false;
}

Json Reader::anything(const Json& value) {
  if (value.is_string()) return cleaned_text(value.get_ref<const std::string&>());
  if (!value.is_structured()) return value;
  Json copy = value.is_array() ? Json::array() : Json::object();
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (value.is_array())
      copy.push_back(anything(*item));
    else
      copy[cleaned_text(item.key())] = anything(*item);
  }
  return copy;
}

bool Reader::is_list(const Json& value, const std::string& name) {
  if (value.is_array()) return is_short(value, name);
  wrong(name + " is " + shown(value) + "; expected a list");
  return false;
}

bool Reader::is_short(const Json& value, const std::string& name) {
  if (value.size() <= max_items) return true;
  const std::string most = std::to_string(max_items);
  wrong(name + " has " + std::to_string(value.size()) + " entries; expected at most " + most);
  return false;
}

void Reader::list(const Json& value, const std::string& name, const Each& each) {
  if (!is_list(value, name)) return;
  for (size_t i = 0; i < value.size(); ++i) each(value[i], name + "[" + std::to_string(i) + "]");
}

std::vector<int64_t> Reader::integers(const Json& value, const std::string& name, int64_t low, int64_t high,
                                      size_t count, const char* words) {
  std::vector<int64_t> numbers;
  if (!is_list(value, name)) return numbers;
  if (words && value.size() != count) {
    wrong(name + " has " + std::to_string(value.size()) + " entries; expected " + std::to_string(count) + ": " + words);
    return numbers;
  }
  list(value, name, [&](const Json& item, const std::string& at) { numbers.push_back(integer(item, at, low, high)); });
  return numbers;
}

std::vector<std::string> Reader::texts(const Json& value, const std::string& name) {
  std::vector<std::string> found;
  list(value, name, [&](const Json& item, const std::string& at) { found.push_back(text(item, at)); });
  return found;
}

void Reader::table(const Json& value, const std::string& name,
                   const std::function<void(const std::string&, const Json&, const std::string&)>& each) {
  if (!value.is_object()) return wrong(name + " must be a table, got " + shown(value));
  if (!is_short(value, name)) return;
  for (auto item = value.begin(); item != value.end(); ++item)
    each(cleaned_text(item.key()), *item, name + "." + cleaned(item.key(), 80));
}

Record::Record(Reader& reader, const Json& value, const std::string& where, const Names& known)
    : reader_(reader), value_(value.is_object() ? &value : nullptr), where_(where) {
  if (!value_) {
    reader_.wrong(where.substr(0, where.size() - 1) + " must be a table, got " + shown(value));
    return;
  }
  for (auto item = value.begin(); item != value.end(); ++item) {
    if (std::find(known.begin(), known.end(), item.key()) != known.end()) continue;
    const std::vector<std::string> words(known.begin(), known.end());
    reader_.wrong("unknown key " + where + cleaned(item.key(), 80) + " (known: " + joined(words, ", ") + ")");
  }
}

void Record::field(const char* key, const Reader::Each& read) {
  if (!value_) return;
  const auto found = value_->find(key);
  if (found == value_->end()) return reader_.wrong(where_ + key + " is missing");
  read(*found, where_ + key);
}

void Record::text(const char* key, std::string& into) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.text(value, name); });
}

void Record::texts(const char* key, std::vector<std::string>& into) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.texts(value, name); });
}

void Record::choice(const char* key, std::string& into, const Names& names) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.choice(value, name, names); });
}

void Record::sha256(const char* key, std::string& into) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.sha256(value, name); });
}

void Record::integer(const char* key, int64_t& into, int64_t low, int64_t high) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.integer(value, name, low, high); });
}

void Record::integers(const char* key, std::vector<int64_t>& into, int64_t low, int64_t high) {
  field(key, [&](const Json& value, const std::string& name) { into = reader_.integers(value, name, low, high); });
}

void Record::words(const char* key, std::map<std::string, std::string>& into) {
  field(key, [&](const Json& value, const std::string& name) {
    reader_.table(value, name, [&](const std::string& word, const Json& item, const std::string& at) {
      into[word] = reader_.text(item, at);
    });
  });
}

void Record::counts(const char* key, std::map<std::string, int64_t>& into) {
  field(key, [&](const Json& value, const std::string& name) {
    reader_.table(value, name, [&](const std::string& word, const Json& item, const std::string& at) {
      into[word] = reader_.integer(item, at, 0, max_count);
    });
  });
}

}  // namespace e2e
