// What a command makes where its command line says: files and folders.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>

namespace elbo {

// How outputs are told from other files. An output replaces an earlier one of its kind, or an empty file, and nothing
// else. No output replaces a file that belongs to a run.
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

// Throws Error where `path` may not become an output of that kind, cannot be written, or is one of `others`: the
// experiment, another output. An empty `path` is no output and passes. To be called before long work.
void require_output(const std::string& path, const OutputKind&, std::initializer_list<std::string> others = {});

// Throws Error where the folder is not there and cannot be made, or is there and cannot be written in.
void require_output_folder(const std::string& path);

// Writes the file whole, after another look at what is there now. Does nothing where `path` is empty.
void write_output(const std::string& path, const OutputKind&, std::string_view content);

}  // namespace elbo
