// albert-fast-run: token ids on stdin, numbers on stdout.
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <csignal>
#include <ctime>
#include <fstream>
#include <iostream>
#include <sstream>
#include <stdexcept>

#include "engine.h"

namespace {
constexpr auto HELP = R"(albert-fast-run FILE < ids        FILE: an engine file of albert-fast, its manifest beside it

A line on stdin is one text: the ids of its tokens, [CLS] and [SEP] among them, as in "2 13 5 3"; a pair is
"2 13 5 3 | 7 3". A line on stdout answers it: the output's name and its numbers; where every token has a row of
numbers, row after row, for the tokens of this text.

  --output NAME  which output; without it the first that the manifest names
  --argmax       instead of each row of numbers the place of its largest, counted from 0
  --batch N      so many lines run together, padded to the longest of them (1)
  --ops PATH     of libalbert_fast_ops.so; without it, where the engine needs it, the dynamic linker looks for it
  --time         milliseconds from the start of the process to the first answer, on stderr
)";

using Options = std::map<std::string, std::string>;  // "--batch" -> "1"; FILE is at ""

struct Text {
  std::vector<int64_t> ids, types;
};

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

bool parse(const std::string& word, int64_t& value) {
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  return error == std::errc() && stop == word.data() + word.size();
}

Options read_arguments(int count, char** words) {
  const std::map<std::string, int> values = {{"--output", 1}, {"--batch", 1}, {"--ops", 1},
                                             {"--argmax", 0}, {"--time", 0},  {"--help", 0}};
  Options options = {{"--batch", "1"}};
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    if (const auto option = values.find(word); option != values.end()) {
      if ((i += option->second) == count) fail(word + " needs a value; see --help");
      options[word] = words[i];
    } else if (word[0] != '-' && !options.count("")) {
      options[""] = word;
    } else {
      fail("'" + word + "' is not understood; see --help");
    }
  }
  if (!options.count("") && !options.count("--help")) fail("an engine file is needed; see --help");
  return options;
}

// Milliseconds since this process began, which the system notes in steps of 10 ms (/proc/self/stat, field 22).
double age_ms() {
  std::ifstream stat("/proc/self/stat");
  std::string field;
  std::getline(stat, field, ')');
  for (int number = 3; number <= 22; ++number) stat >> field;
  timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return 1e3 * now.tv_sec + now.tv_nsec / 1e6 - 1e3 * std::stod(field) / sysconf(_SC_CLK_TCK);
}

Text read_text(const std::string& line, const std::string& where, const Manifest& manifest) {
  Text text;
  int64_t vocab_size = 0, id = 0, segment = 0;
  parse(manifest.at("config.vocab_size"), vocab_size);
  bool empty = true;
  std::istringstream words(line);
  for (std::string word; words >> word;) {
    if (word == "|" && segment == 0 && !empty) {
      if (manifest.at("config.type_vocab_size") == "1") fail(where + "this model takes no pairs (type_vocab_size 1)");
      segment = 1;
      empty = true;
      continue;
    }
    if (!parse(word, id) || id < 0 || id >= vocab_size)
      fail(where + "'" + word + "' is no token id, expected 0.." + std::to_string(vocab_size - 1));
    text.ids.push_back(id);
    text.types.push_back(segment);
    empty = false;
  }
  if (empty) fail(where + (segment ? "no ids behind |" : "no ids") + ", expected as in 2 13 5 3 | 7 3");
  return text;
}

// The texts as one batch, at least as large as the profile MIN:OPT:MAX (each BATCHxLENGTH) wants; the rest is masked.
Inputs padded(const std::vector<Text>& texts, const std::string& profile, const std::string& where) {
  int64_t min_batch, min_length, max_batch, max_length, rows = texts.size(), length = 0;
  for (const auto& text : texts) length = std::max<int64_t>(length, text.ids.size());
  const auto read = [&](size_t at, auto& b, auto& s) { return sscanf(&profile[at], "%ldx%ld", &b, &s) == 2; };
  if (profile.find(',') != profile.npos || !read(0, min_batch, min_length) ||
      !read(profile.rfind(':') + 1, max_batch, max_length))
    fail("the engine's profile is " + profile + ", expected one such as 1x1:8x128:32x512; export it anew");
  if (rows > max_batch || length > max_length)
    fail(where + "a batch of " + std::to_string(rows) + "x" + std::to_string(length) + " is beyond the engine's " +
         "profile " + profile + "; cut the text, lower --batch, or export with a wider --profile");
  Inputs in{std::max(rows, min_batch), std::max(length, min_length), {}, {}, {}};
  for (auto* part : {&in.input_ids, &in.attention_mask, &in.token_type_ids}) part->resize(in.batch * in.length);
  for (int64_t row = 0; row < rows; ++row) {
    const auto& [ids, types] = texts[row];
    std::copy(ids.begin(), ids.end(), &in.input_ids[row * in.length]);
    std::copy(types.begin(), types.end(), &in.token_type_ids[row * in.length]);
    std::fill_n(&in.attention_mask[row * in.length], ids.size(), 1);
  }
  return in;
}

// One text's line: the output's name, then its numbers or the places of the largest. `tokens` is 0 where no row is one.
std::string answer(const std::string& name, const Output& output, size_t row, size_t tokens, bool argmax) {
  const size_t all = output.values.size() / output.shape[0], shown = tokens ? all / output.shape[1] * tokens : all;
  const size_t width = output.shape.size() == 3 ? output.shape[2] : shown;
  std::string line = name;
  char number[32], *const last = std::end(number);
  for (const float *v = &output.values[row * all], *end = v + shown; v < end; v += argmax ? width : 1) {
    const auto written = argmax ? std::to_chars(number, last, std::max_element(v, v + width) - v)
                                : std::to_chars(number, last, *v);
    line.append(" ").append(number, written.ptr);
  }
  return line + "\n";
}

std::unique_ptr<Engine> open(const std::string& file, const Manifest& manifest, const std::string& ops) {
  const std::map<std::string, Open*> formats = {
      {"aotinductor", open_aotinductor},
      {"native", open_aotinductor},  // a package too; its manifest asks for the op library
#ifdef ALBERT_FAST_TENSORRT
      {"tensorrt", open_tensorrt},
      {"tensorrt-rtx", open_tensorrt},
#endif
  };
  const auto format = formats.find(manifest.at("format"));
  if (format == formats.end())
    fail(file + " has the format " + manifest.at("format") + ", which does not run here; see export/cpp/README.md");
  return format->second(file, manifest, ops);
}

size_t find_output(const Manifest& manifest, const std::string& asked) {
  std::string names, place = "outputs.0.name";
  for (size_t i = 0; manifest.count(place); place = "outputs." + std::to_string(++i) + ".name") {
    if (asked.empty() || manifest.at(place) == asked) return i;
    names += " " + manifest.at(place);
  }
  fail("--output is '" + asked + "', the engine has" + names);
}

void run(Options options) {
  const double main_ms = age_ms();
  const std::string file = options[""];
  const Manifest manifest = read_manifest(file);
  if (manifest.at("head") == "multiple-choice") fail(file + " takes choices, this program texts and pairs of texts");
  if (manifest.count("inputs.3.name"))
    fail(file + " answers at asked positions alone, this program at all; export it with --positions all");
  const size_t output = find_output(manifest, options["--output"]);
  const std::string place = "outputs." + std::to_string(output), name = manifest.at(place + ".name");
  const auto dimension = manifest.find(place + ".dimensions.1.name");
  const bool per_token = dimension != manifest.end() && dimension->second == "length";
  int64_t batch = 0;
  if (!parse(options["--batch"], batch) || batch < 1)
    fail("--batch is '" + options["--batch"] + "', expected a whole number from 1");
  const auto engine = open(file, manifest, options["--ops"]);
  const double loaded_ms = age_ms();

  std::vector<Text> texts;
  int64_t number = 0;
  for (bool more = true; more;) {
    std::string line, where = "line " + std::to_string(number + 1) + ": ";
    more = static_cast<bool>(std::getline(std::cin, line));
    if (more) {
      texts.push_back(read_text(line, where, manifest));
      ++number;
    }
    const int64_t rows = texts.size();
    if (rows == 0 || (more && rows < batch)) continue;
    Inputs inputs = padded(texts, manifest.at("profile"), where);
    const Output numbers = engine->run(inputs, output);
    for (int64_t row = 0; row < rows; ++row)
      std::cout << answer(name, numbers, row, per_token ? texts[row].ids.size() : 0, options.count("--argmax"));
    if (!std::cout.flush()) fail("the answers cannot be written: stdout is closed or full");
    if (number == rows && options.count("--time"))
      std::cerr << "ms since the process began: main " << std::lround(main_ms) << ", engine loaded "
                << std::lround(loaded_ms) << ", first answer " << std::lround(age_ms()) << "\n";
    texts.clear();
  }
  if (number == 0) fail("nothing came on stdin, expected a line of token ids for each text");
}
}  // namespace

int main(int count, char** words) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that goes away is an error of writing; the engine still tidies up /tmp
  try {
    const Options options = read_arguments(count, words);
    if (options.count("--help")) std::cout << HELP;
    else run(options);
  } catch (const std::exception& error) {
    const std::string message = error.what();  // torch's goes on for pages
    std::cerr << "albert-fast-run: " << message.substr(0, message.find('\n')) << "\n";
    return 1;
  }
}
