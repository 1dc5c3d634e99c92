// A file that is named on the command line, for what a command makes.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>

namespace elbo {

// What outputs are told from other files by: an output takes the place of one of its kind, or of an empty file, and of
// nothing else. Nor does it take that of a file that belongs to a run.
struct OutputKind {
  std::string_view name, begin;  // begin: a file's first bytes
};
inline constexpr OutputKind png_output{"PNG picture", "\x89PNG\r\n\x1a\n"};
inline constexpr OutputKind step_output{"JSON file of `elbo plan` or `elbo bench step`", "{\n  \"spec\": "};
inline constexpr OutputKind loss_output{"JSON file of `elbo bench loss`", "{\n  \"device\": "};
inline constexpr OutputKind trace_output{"trace of `elbo profile`", "{\"traceEvents\":["};
inline constexpr OutputKind table_output{"table of `elbo profile`", "start_us,duration_us,kind,"};
inline constexpr OutputKind tuning_output{"file of `elbo tune`", "{\n  \"format\": "};
inline constexpr OutputKind loss_page_output{"page of `elbo bench loss`",
                                             "<!DOCTYPE html>\n<!-- elbo bench loss -->\n"};
inline constexpr OutputKind report_output{"report of elbo", "<!DOCTYPE html>\n<!-- elbo report -->\n"};

// Throws Error where an output of that kind may not be `path`, cannot be written, or where `path` is one of `others`:
// the experiment, another output. Nothing where `path` is empty. For the time before long work.
void require_output(const std::string& path, const OutputKind&, std::initializer_list<std::string> others = {});

// Throws Error where the folder cannot be made, or, where it is there, nothing can be written in it.
void require_output_folder(const std::string& path);

// Writes it, whole. The file of now is looked at once more. Nothing where `path` is empty.
void write_output(const std::string& path, const OutputKind&, std::string_view content);

}  // namespace elbo
