// The command line: a table of commands, what each of them takes, and how they are read.
//
// CLI11 does the reading. Only command_line.cpp includes it, since a file that does takes ten seconds to compile.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "host/base/words.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace elbo {

// What a command does once its options have been read. Returns the exit status.
using Action = std::function<int()>;

// An option that was declared, for what else there is to say of it.
class Option {
 public:
  explicit Option(CLI::Option* option) : option_(option) {}

  Option required();
  Option shows_default();                      // in --help
  Option shows_type(const std::string& type);  // instead of TEXT
  Option one_of(const Words&);                 // takes these, and nothing else
  // Takes what `check` throws no Error for.
  Option checked_by(const std::function<void(const std::string&)>& check);

  bool is_given() const;
  void give(const std::string& value);  // as if the command line had it

 private:
  CLI::Option* option_;
};

// The options of a command. Each declaration names an option, where its value goes (which must outlive the reading; it
// holds the default), and what --help says of it. A name without dashes is a word, which must be given.
class Options {
 public:
  Options(CLI::App& app, const std::string& line) : app_(app), line_(line) {}

  Option text(const std::string& name, std::string& value, const std::string& help);
  // May be given again, with one value each time.
  Option texts(const std::string& name, std::vector<std::string>& values, const std::string& help);
  // A number of low .. high, in decimals (12, 0.5, 3e-4), whole where `Number` is. A vector's may be given again.
  template <class Number>
  Option number(const std::string& name, Number& value, double low, double high, const std::string& help);
  // Given with a value or without (which is "" then): `take` is called when the rest has been read.
  Option optional_text(const std::string& name, const std::function<void(const std::string&)>& take,
                       const std::string& help);
  // Takes no value. Given, it makes `value` false.
  void off_switch(const std::string& name, bool& value, const std::string& help);

  // The whole command line, as a shell reads it.
  const std::string& line() const { return line_; }

 private:
  CLI::App& app_;
  const std::string& line_;
};

struct Command {
  std::string name, help;
  Action (*declare)(Options&) = nullptr;  // its options; what it does with them
  std::vector<Command> commands{};        // its own: then it does nothing, and one of these must be given
};

struct CommandLine {
  std::string help, version, footer;  // what --help begins and ends with
  std::vector<Command> commands;      // in the order of --help
};

// Does what the command line asks for, and returns the exit status. What is wrong with a command line is told on
// standard error, in elbo's words; the exit status is 2 then.
int run_command_line(const CommandLine&, int argc, char** argv);

}  // namespace elbo
