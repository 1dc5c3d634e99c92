#include "host/commands/command_line.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <vector>

#include "elbo/error.h"
#include "host/base/json.h"
#include "host/base/words.h"

namespace elbo {
namespace {

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

}  // namespace

CLI::Validator number_in(double low, double high) { return numbers(low, high, false); }
CLI::Validator whole_number_in(double low, double high) { return numbers(low, high, true); }

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

CLI::Validator one_of(const Words& words) {
  return accepted_by([words](const std::string& text) {
    if (std::ranges::find(words, text) == words.end())
      fail("expected ", any_of(words), ", found ", in_quotes(text), suggestion(text, words));
  });
}

std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const std::vector<const CLI::App*> given = chain(app);
  const Words commands = commands_of(*given.back());
  if (dynamic_cast<const CLI::ExtrasError*>(&error) || !commands.empty())
    for (const CLI::App* at : given)
      if (const Words words = at->remaining(); !words.empty()) return explain_words(*at, words);
  const std::string text = error.what(), option = text.substr(0, text.find(':'));
  if (dynamic_cast<const CLI::ArgumentMismatch*>(&error))
    if (const CLI::Option* o = given.back()->get_option_no_throw(option))
      return option + (o->count() > 1 ? ": is given more than once" : ": a value is missing");
  return commands.empty() ? text : "a command is missing; expected " + any_of(commands);
}

std::string command_given(const CLI::App& app) {
  std::string text = "elbo";
  for (const CLI::App* at : chain(app))
    if (at != &app) text += " " + at->get_name();
  return text;
}

}  // namespace elbo
