#include "host/commands/command_line.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <sstream>
#include <type_traits>
#include <utility>

#include "elbo/error.h"
#include "host/base/json.h"
#include "host/base/words.h"

namespace elbo {
namespace {

// ---- Values -----------------------------------------------------------------------------------------------------

// Lets a number pass. CLI11 alone would take nan for one, and 010 for 8.
CLI::Validator numbers(double low, double high, bool whole) {
  const std::string range = number_text(low) + ".." + number_text(high);
  const auto check = [=](std::string& text) -> std::string {
    double value = 0;
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    const bool good = error == std::errc() && stop == end && value >= low && value <= high;  // NaN is not
    if (!good || (whole && std::trunc(value) != value))
      return cat("expected ", whole ? "a whole number" : "a number", " from ", number_text(low), " to ",
                 number_text(high), ", found ", in_quotes(text));
    if (whole) text = number_text(value);
    return "";
  };
  return {check, range};
}

CLI::Validator accepted_by(const std::function<void(const std::string&)>& check) {
  return {[check](std::string& text) -> std::string {
            try {
              check(text);
              return "";
            } catch (const Error& e) {
              return e.what();
            }
          },
          ""};
}

template <class T>
constexpr bool is_whole = std::is_integral_v<T>;
template <class T>
constexpr bool is_whole<std::vector<T>> = std::is_integral_v<T>;
template <class T>
constexpr bool is_list = false;
template <class T>
constexpr bool is_list<std::vector<T>> = true;

// ---- What is wrong with a command line ----------------------------------------------------------------------------

// The commands that were given, from the program itself on.
std::vector<const CLI::App*> chain(const CLI::App& app) {
  std::vector<const CLI::App*> all = {&app};
  while (!all.back()->get_subcommands().empty()) all.push_back(all.back()->get_subcommands().front());
  return all;
}

Words commands_of(const CLI::App& app) {
  Words names;
  for (const CLI::App* command : app.get_subcommands({})) names.push_back(command->get_name());
  return names;
}

Words options_of(const CLI::App& app) {
  Words names;
  for (const CLI::Option* option : app.get_options({}))
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

// Of words that no option of `at` takes, and that are no command there.
std::string explain_words(const CLI::App& at, const Words& words) {
  const std::string first = words.front().substr(0, words.front().find('='));
  const bool is_option = first.starts_with('-');
  const Words commands = commands_of(at);
  if (!is_option && !commands.empty()) {
    const std::string near = suggestion(first, commands);
    return "there is no command " + in_quotes(first) + (near.empty() ? "; expected " + any_of(commands) : near);
  }
  std::string text = words.size() > 1 ? "unexpected arguments:" : "unexpected argument:";
  for (const std::string& word : words) text += " " + word;
  return is_option ? text + suggestion(first, options_of(at)) : text;
}

// What `error` says of a command line that `app` has read, in words of elbo's.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> given = chain(app);
  const Words commands = commands_of(*given.back());
  // A word that nothing takes is named before a word that is missing: it may be that one, misspelt.
  const bool may_be_misspelt =
      dynamic_cast<const CLI::ExtrasError*>(&error) || dynamic_cast<const CLI::RequiredError*>(&error);
  if (may_be_misspelt || !commands.empty())
    for (const CLI::App* at : given)
      if (const Words words = at->remaining(); !words.empty()) return explain_words(*at, words);
  const std::string text = error.what(), option = text.substr(0, text.find(':'));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error))
    if (const CLI::Option* o = given.back()->get_option_no_throw(option))
      return option + (o->count() > 1 ? ": is given more than once" : ": a value is missing");
  return commands.empty() ? text : "a command is missing; expected " + any_of(commands);
}

// "elbo bench step": the command that was given, as far as there is one of that name.
std::string command_given(const CLI::App& app) {
  std::string text = "elbo";
  for (const CLI::App* at : chain(app))
    if (at != &app) text += " " + at->get_name();
  return text;
}

// ---- Commands -----------------------------------------------------------------------------------------------------

using Actions = std::vector<std::pair<CLI::App*, Action>>;

void declare(CLI::App& app, const std::vector<Command>& commands, const std::string& line, Actions& actions) {
  app.require_subcommand(1);
  for (const Command& command : commands) {
    CLI::App& own = *app.add_subcommand(command.name, command.help);
    if (command.declare) {
      Options options(own, line);
      actions.emplace_back(&own, command.declare(options));
    } else {
      declare(own, command.commands, line, actions);
    }
  }
}

// The options that are words: each must be given. CLI11 is not told so while it reads, or it would take the value of an
// option that may do without one (--resume) for a word that is missing.
std::vector<CLI::Option*> words_of(CLI::App& command) {
  return command.get_options([](const CLI::Option* option) { return option->get_positional(); });
}

std::string join(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) line += (i ? " " : "") + shell_word(argv[i]);
  return line;
}

}  // namespace

// ---- Options ------------------------------------------------------------------------------------------------------

Option Option::required() { return Option(option_->required()); }
Option Option::shows_default() { return Option(option_->capture_default_str()); }
Option Option::shows_type(const std::string& type) { return Option(option_->type_name(type)); }
bool Option::is_given() const { return option_->count() > 0; }

Option Option::checked_by(const std::function<void(const std::string&)>& check) {
  return Option(option_->check(accepted_by(check)));
}

Option Option::one_of(const Words& words) {
  return checked_by([words](const std::string& text) {
    if (std::ranges::find(words, text) == words.end())
      fail("expected ", any_of(words), ", found ", in_quotes(text), suggestion(text, words));
  });
}

void Option::give(const std::string& value) {
  option_->add_result(value);
  option_->run_callback();
}

Option Options::text(const std::string& name, std::string& value, const std::string& help) {
  return Option(app_.add_option(name, value, help));
}

Option Options::texts(const std::string& name, std::vector<std::string>& values, const std::string& help) {
  return Option(app_.add_option(name, values, help)->allow_extra_args(false));
}

template <class Number>
Option Options::number(const std::string& name, Number& value, double low, double high, const std::string& help) {
  CLI::Option* option = app_.add_option(name, value, help)->transform(numbers(low, high, is_whole<Number>));
  if (is_list<Number>) option->allow_extra_args(false);
  return Option(option);
}
template Option Options::number(const std::string&, int&, double, double, const std::string&);
template Option Options::number(const std::string&, std::int64_t&, double, double, const std::string&);
template Option Options::number(const std::string&, std::uint64_t&, double, double, const std::string&);
template Option Options::number(const std::string&, double&, double, double, const std::string&);
template Option Options::number(const std::string&, std::optional<double>&, double, double, const std::string&);
template Option Options::number(const std::string&, std::vector<std::int64_t>&, double, double, const std::string&);

Option Options::optional_text(const std::string& name, const std::function<void(const std::string&)>& take,
                              const std::string& help) {
  return Option(app_.add_option_function(name, take, help)->expected(0, 1));
}

void Options::off_switch(const std::string& name, bool& value, const std::string& help) {
  app_.add_flag_callback(
      name, [&value] { value = false; }, help);
}

// ---- Reading ------------------------------------------------------------------------------------------------------

int run_command_line(const CommandLine& program, int argc, char** argv) {
  CLI::App app{program.help};
  app.set_version_flag("--version", program.version);
  app.get_formatter()->column_width(34);
  const std::string line = join(argc, argv);
  Actions actions;
  declare(app, program.commands, line, actions);
  app.footer(program.footer);  // after the commands, which would take it over

  const Action* action = nullptr;
  try {
    app.parse(argc, argv);
    for (const auto& [command, its_action] : actions) {
      if (!command->parsed()) continue;
      for (const CLI::Option* word : words_of(*command))
        if (word->count() == 0) throw CLI::RequiredError(word->get_name());
      action = &its_action;
    }
  } catch (const CLI::Success& e) {  // --help, --version
    for (const auto& [command, unused] : actions)
      for (CLI::Option* word : words_of(*command)) word->required();
    std::ostringstream text;
    app.exit(e, text, text);
    fmt::print("{}", text.str());
    return 0;
  } catch (const CLI::ParseError& e) {
    std::fprintf(stderr, "elbo: %s\n`%s --help` says what there is\n", explain(app, e).c_str(),
                 command_given(app).c_str());
    return 2;
  }
  return (*action)();
}

}  // namespace elbo
