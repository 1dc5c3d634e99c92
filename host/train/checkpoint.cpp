#include "host/train/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <vector>

#include "host/base/memory.h"
#include "host/base/sha256.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

constexpr const char* format = "elbo-checkpoint-2";

template <class T>
bool all_finite(const std::vector<std::byte>& bytes) {
  for (std::size_t i = 0; i < bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, &bytes[i], sizeof value);
    if (!std::isfinite(value)) return false;
  }
  return true;
}

// Reads and verifies; an Error, too, where there is NaN or infinity: no training leaves that.
TensorFile read_finite(const std::string& path) {
  TensorFile file = read_safetensors(path);
  for (const NamedTensor& t : file.tensors)
    require(t.dtype == DType::f64 ? all_finite<double>(t.bytes) : t.dtype != DType::f32 || all_finite<float>(t.bytes),
            path, ": ", t.name, " holds NaN or infinity");
  return file;
}

std::vector<std::byte> read_back(Backend& device, const Tensor& t) {
  std::vector<std::byte> bytes;
  reserve_memory(bytes, t.bytes(), "the host's copy of the weights, for a checkpoint");
  bytes.resize(t.bytes());
  device.download(bytes.data(), t);
  return bytes;
}

// The parameters' pieces of a flat buffer.
void add_pieces(TensorFile& file, const Vae& vae, const std::string& prefix, const Tensor& flat) {
  for (const Parameter& p : vae.parameters.layout())
    file.tensors.push_back(
        {prefix + p.name, DType::f32, p.shape, read_back(vae.device(), vae.parameters.view(flat, p))});
}

// The state of training, as it lies in a trainer or a snapshot.
struct State {
  Tensor parameters, first, second, sums;
};

TensorFile make_file(const Vae& vae, const State& state, const Spec& spec, const Progress& progress) {
  TensorFile file;
  add_pieces(file, vae, "", state.parameters);
  add_pieces(file, vae, "optimizer.first.", state.first);
  add_pieces(file, vae, "optimizer.second.", state.second);
  file.tensors.push_back({"epoch.sums", state.sums.dtype, state.sums.shape, read_back(vae.device(), state.sums)});
  file.metadata = {{"format", format},
                   {"spec", to_json(spec)},
                   {"step", fmt::format("{}", progress.step)},
                   {"seconds", fmt::format("{}", progress.seconds)},
                   {"best_elbo", fmt::format("{}", progress.best_bound)},  // its name before there were other bounds
                   {"images", progress.images}};
  return file;
}

// Uploads the tensor of that name. `path`: of the file.
void put(Backend& device, const Tensor& to, const TensorFile& file, const std::string& name, const std::string& path) {
  const NamedTensor* const from = file.find(name);
  require(from, path, ": a checkpoint of another network: there is no tensor '", name, "'");
  require(from->dtype == to.dtype && from->shape == to.shape, path, ": a checkpoint of another network: ", name, " is ",
          name_of(from->dtype), " ", from->shape, ", expected ", name_of(to.dtype), " ", to.shape);
  device.upload(to, from->bytes.data());
}

const std::string& text_of(const TensorFile& file, const std::string& key, const std::string& name) {
  const auto found = file.metadata.find(key);
  require(found != file.metadata.end(), name, ": not a checkpoint of elbo: its metadata have no \"", key, "\"");
  return found->second;
}

template <class T>
T number(const TensorFile& file, const std::string& key, const std::string& name) {
  const std::string& text = text_of(file, key, name);
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  require(error == std::errc() && end == text.data() + text.size(), name, ": metadata \"", key, "\": \"", text,
          "\" is not a number in range");
  return value;
}

}  // namespace

TensorFile make_checkpoint(Trainer& trainer, const Spec& spec, const Progress& progress) {
  const Vae& vae = trainer.vae;
  return make_file(
      vae,
      {vae.parameters.memory(), trainer.optimizer.first_moment(), trainer.optimizer.second_moment(), trainer.sums()},
      spec, progress);
}

Snapshot::Snapshot(Trainer& trainer) : trainer_(trainer) {
  constexpr const char* what = "the best state so far (fewer model.*.units need less)";
  arena_ = Arena::of(trainer.vae.device(), what, [&](Arena& arena) {
    for (Tensor* t : {&parameters_, &first_, &second_}) *t = arena.take(trainer.vae.parameters.memory().shape);
    sums_ = arena.take(trainer.sums().shape, trainer.sums().dtype);
  });
}

void Snapshot::take(const Progress& progress) {
  const Vae& vae = trainer_.vae;
  vae.device().copy(parameters_, vae.parameters.memory());
  vae.device().copy(first_, trainer_.optimizer.first_moment());
  vae.device().copy(second_, trainer_.optimizer.second_moment());
  vae.device().copy(sums_, trainer_.sums());
  progress_ = progress;
}

TensorFile Snapshot::read(const Spec& spec) const {
  return make_file(trainer_.vae, {parameters_, first_, second_, sums_}, spec, progress_);
}

Progress read_progress(const TensorFile& file, const std::string& name) {
  const auto found = file.metadata.find("format");
  require(found != file.metadata.end() && found->second == format, name,
          ": not a checkpoint of this version of elbo: its metadata should have \"format\": \"", format, "\"");
  return {number<std::uint32_t>(file, "step", name), number<double>(file, "seconds", name),
          number<double>(file, "best_elbo", name), text_of(file, "images", name)};
}

std::string stored_spec(const TensorFile& file, const std::string& name) { return text_of(file, "spec", name); }

void load_weights(Vae& vae, const TensorFile& file, const std::string& name) {
  const Parameters& all = vae.parameters;
  for (const Parameter& p : all.layout()) put(vae.device(), all.view(all.memory(), p), file, p.name, name);
}

Progress restore(Trainer& trainer, const TensorFile& file, const std::string& name) {
  Vae& vae = trainer.vae;
  Progress progress = read_progress(file, name);
  load_weights(vae, file, name);
  for (const auto& [part, flat] :
       {std::pair{"first", trainer.optimizer.first_moment()}, std::pair{"second", trainer.optimizer.second_moment()}})
    for (const Parameter& p : vae.parameters.layout())
      put(vae.device(), vae.parameters.view(flat, p), file, fmt::format("optimizer.{}.{}", part, p.name), name);
  put(vae.device(), trainer.sums(), file, "epoch.sums", name);
  trainer.set_step(progress.step);
  return progress;
}

std::string hash_weights(const Vae& vae) {
  Sha256 hash;
  for (const Parameter& p : vae.parameters.layout()) {
    const std::vector<std::byte> bytes = read_back(vae.device(), vae.parameters.view(vae.parameters.memory(), p));
    hash.update(bytes.data(), bytes.size());
  }
  return hash.hex();
}

// `best` waits beside until `last` is in place: a run that goes on from the `last` before then has the `best` that
// belongs to it.
void CheckpointFolder::write(const TensorFile& last, const TensorFile* best,
                             const std::vector<std::string>& names) const {
  if (best) write_safetensors(path("next-best"), *best);
  if (has("last")) link("last", "previous");
  replace_last(last);
  if (best) {
    link("next-best", "best");
    remove_next_best();
  }
  for (const std::string& name : names) link("last", name);
}

void CheckpointFolder::replace_last(const TensorFile& file) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  require(!error, folder_, ": cannot be made: ", error.message());
  write_safetensors(path("last"), file);
}

void CheckpointFolder::settle(const std::string& name, std::int64_t step,
                              const std::vector<std::string>& others) const {
  if (holds(name, step)) return;
  for (const std::string& other : others)
    if (holds(other, step)) return link(other, name);
}

void CheckpointFolder::remove_next_best() const {
  std::error_code error;
  fs::remove(path("next-best"), error);
  if (error) fail(path("next-best"), ": cannot be removed: ", error.message());
}

bool CheckpointFolder::has(const std::string& name) const {
  std::error_code error;
  const bool there = fs::exists(path(name), error);
  if (error) fail(path(name), ": ", error.message());
  return there;
}

std::string CheckpointFolder::names() const {
  std::vector<std::string> found;
  std::error_code error;
  const fs::directory_iterator entries(folder_, error);
  require(!error || error == std::errc::no_such_file_or_directory, folder_, ": cannot be read: ", error.message());
  for (const fs::directory_entry& entry : entries)
    if (entry.path().extension() == ".safetensors") found.push_back(entry.path().stem());
  std::ranges::sort(found);
  return fmt::format("{}", fmt::join(found, ", "));
}

bool CheckpointFolder::holds(const std::string& name, std::int64_t step) const {
  try {
    return has(name) && read_progress(read_safetensors(path(name)), path(name)).step == step;
  } catch (const Error&) {
    return false;
  }
}

std::string CheckpointFolder::file(const std::string& name) const {
  return name.find('/') == std::string::npos && !name.ends_with(".safetensors") ? path(name) : name;
}

TensorFile CheckpointFolder::read(const std::string& name, const std::string& option) const {
  try {
    return read_finite(file(name));
  } catch (const Error& e) {
    std::string newest;
    std::int64_t step = -1;
    for (const char* other : {"last", "previous", "best"}) {
      if (file(name) == path(other)) continue;
      try {
        const std::int64_t at = read_progress(read_finite(path(other)), path(other)).step;
        if (at <= step) continue;
        step = at;
        newest = other;
      } catch (const Error&) {
        continue;
      }
    }
    if (step < 0) throw;
    fail(e.what(), "; the checkpoint ", newest, ", of step ", step, ", is whole (", option, " ", newest, ")");
  }
}

}  // namespace elbo
