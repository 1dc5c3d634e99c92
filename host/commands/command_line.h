// What the command line has beyond CLI11: values that are refused at once, and errors for people.
#pragma once
#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "host/base/words.h"

namespace elbo {

// Let a number of low .. high pass that is written in decimals (12, 0.5, 3e-4). For Option::transform: CLI11 alone
// would take nan for a number and 010 for 8.
CLI::Validator number_in(double low, double high);
CLI::Validator whole_number_in(double low, double high);

// Lets a value pass of which `check` does not throw an Error. For Option::check.
CLI::Validator accepted_by(const std::function<void(const std::string&)>& check);

// Lets one of `words` pass. For Option::check.
CLI::Validator one_of(const Words& words);

// What is wrong with a command line: what `error` says of it, in words of elbo's. `app` has parsed it.
std::string explain(const CLI::App& app, const CLI::ParseError& error);

// "elbo bench step": the command that was given, as far as there is one of that name.
std::string command_given(const CLI::App& app);

}  // namespace elbo
