// From parsed JSON to records, every mistake found, by the rules of e2e_deploy/system/records.py for what a program
// wrote: no key is missing, unknown or of another type. Does not know what any key means.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "json.hpp"

namespace e2e {

using Names = std::vector<const char*>;

constexpr int64_t max_count = int64_t{1} << 53;  // of anything

class Reader {
 public:
  using Each = std::function<void(const Json&, const std::string& name)>;

  std::vector<std::string> problems;

  void wrong(const std::string& problem);

  // Of each function: the value, or an empty one and a problem. ``name`` is where it stands.
  std::string text(const Json& value, const std::string& name);
  std::string choice(const Json& value, const std::string& name, const Names& names);
  std::string sha256(const Json& value, const std::string& name);
  int64_t integer(const Json& value, const std::string& name, int64_t low, int64_t high);
  double number(const Json& value, const std::string& name, bool is_positive);
  bool boolean(const Json& value, const std::string& name);
  Json anything(const Json& value);

  void list(const Json& value, const std::string& name, const Each& each);
  // ``count`` whole numbers, which ``words`` describes.
  std::vector<int64_t> integers(const Json& value, const std::string& name, int64_t low, int64_t high,
                                size_t count = 0, const char* words = nullptr);
  std::vector<std::string> texts(const Json& value, const std::string& name);
  // ``each`` gets the cleaned key in place of a name, and the name.
  void table(const Json& value, const std::string& name,
             const std::function<void(const std::string& key, const Json&, const std::string& name)>& each);

 private:
  bool is_list(const Json& value, const std::string& name);
  bool is_short(const Json& value, const std::string& name);
};

// One record in a table: first what keys it may have, then its fields in order.
class Record {
 public:
  Record(Reader& reader, const Json& value, const std::string& where, const Names& known);

  // ``read`` gets the value and its name, unless it is missing.
  void field(const char* key, const Reader::Each& read);

  // A field of a type, as the Reader has it.
  void text(const char* key, std::string& into);
  void texts(const char* key, std::vector<std::string>& into);
  void choice(const char* key, std::string& into, const Names& names);
  void sha256(const char* key, std::string& into);
  void integer(const char* key, int64_t& into, int64_t low, int64_t high);
  void integers(const char* key, std::vector<int64_t>& into, int64_t low, int64_t high);
  void words(const char* key, std::map<std::string, std::string>& into);
  void counts(const char* key, std::map<std::string, int64_t>& into);

  // A list of what ``read`` makes of a value and its name.
  template <class T>
  void list(const char* key, std::vector<T>& into, T (*read)(Reader&, const Json&, const std::string&)) {
    field(key, [&](const Json& value, const std::string& name) {
      reader_.list(value, name,
                   [&](const Json& item, const std::string& at) { into.push_back(read(reader_, item, at)); });
    });
  }

 private:
  Reader& reader_;
  const Json* value_;  // nullptr: no table
  std::string where_;
};

}  // namespace e2e
