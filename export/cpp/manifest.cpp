#include <filesystem>
#include <fstream>
#include <stdexcept>

#include "engine.h"

// albert-fast writes one value a line, two blanks a level, and a string of JSON holds no line break: the indentation
// alone tells where a value belongs. A file that is laid out otherwise lacks what is looked for below. A label or note
// that holds quotes may be read wrongly, but stays in its place among labels and notes, where nothing is looked for.
Manifest read_manifest(const std::string& engine_file) {
  if (!std::filesystem::is_regular_file(engine_file)) throw std::runtime_error(engine_file + ": there is no such file");
  const std::string path = engine_file + ".manifest.json", again = "; copy both files again, or export anew";
  std::ifstream stream(path);
  if (!stream) throw std::runtime_error(path + " is missing, and an engine file runs only with it" + again);
  Manifest manifest;
  std::vector<std::string> names;  // of the levels that the line lies in
  std::vector<size_t> items;       // met so far in each level's list
  for (std::string line; std::getline(stream, line);) {
    const size_t indent = line.find_first_not_of(' '), depth = indent / 2;
    if (indent == line.npos || depth == 0 || line[indent] == '}' || line[indent] == ']') continue;
    std::string value = line.substr(indent, line.size() - indent - (line.back() == ','));
    const size_t end = value.find('"', 1);
    const bool named = value[0] == '"' && value.find(": ", end) == end + 1;
    names.resize(depth);
    items.resize(depth + 1);
    names.back() = named ? value.substr(1, end - 1) : std::to_string(items.back()++);
    if (named) value.erase(0, end + 3);
    if (value[0] == '"') value = value.substr(1, value.size() - 2);
    std::string place = names[0];
    for (size_t level = 1; level < depth; ++level) place += "." + names[level];
    manifest[place] = value;
  }
  for (const auto* name : {"config.vocab_size", "config.type_vocab_size", "device", "file_bytes", "format", "head",
                           "outputs.0.name", "profile", "requires.op_library", "requires.torch"})
    if (!manifest.count(name))
      throw std::runtime_error(path + " has no " + name + " where albert-fast writes it" + again);
  if (const auto found = std::to_string(std::filesystem::file_size(engine_file)); found != manifest["file_bytes"])
    throw std::runtime_error(engine_file + " has " + found + " bytes, expected " + manifest["file_bytes"] + again);
  return manifest;
}
