#include "host/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <vector>

#include "host/files.h"
#include "host/sha256.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

constexpr const char* format = "elbo-checkpoint-2";

NamedTensor read_back(Backend& device, const std::string& name, const Tensor& t) {
  NamedTensor named{name, t.dtype, t.shape, std::vector<std::byte>(t.bytes())};
  device.download(named.bytes.data(), t);
  return named;
}

Tensor view(const Tensor& flat, const Parameter& p) { return {flat.as<float>() + p.offset, DType::f32, p.shape}; }

void put(Backend& device, const Tensor& to, const NamedTensor& from, const std::string& file) {
  require(from.dtype == to.dtype && from.shape == to.shape, file, ": a checkpoint of another network: ", from.name,
          " is ", name_of(from.dtype), " ", from.shape.str(), ", expected ", name_of(to.dtype), " ", to.shape.str());
  device.upload(to, from.bytes.data());
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
  Vae& vae = trainer.vae;
  TensorFile file;
  for (const Parameter& p : vae.layout())
    file.tensors.push_back(read_back(vae.device(), p.name, view(vae.parameters, p)));
  for (const auto& [name, flat] : {std::pair{"first", vae.first}, std::pair{"second", vae.second}})
    for (const Parameter& p : vae.layout())
      file.tensors.push_back(read_back(vae.device(), fmt::format("optimizer.{}.{}", name, p.name), view(flat, p)));
  file.tensors.push_back(read_back(vae.device(), "epoch.sums", trainer.sums));
  file.metadata = {{"format", format},
                   {"spec", to_json(spec)},
                   {"step", fmt::format("{}", progress.step)},
                   {"seconds", fmt::format("{}", progress.seconds)},
                   {"best_elbo", fmt::format("{}", progress.best_elbo)},
                   {"images", progress.images}};
  return file;
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
  try {
    for (const Parameter& p : vae.layout()) put(vae.device(), view(vae.parameters, p), file.at(p.name), name);
  } catch (const Error& e) {
    const std::string what = e.what();
    throw Error(what.starts_with(name) ? what : name + ": a checkpoint of another network: " + what);
  }
}

Progress restore(Trainer& trainer, const TensorFile& file, const std::string& name) {
  Vae& vae = trainer.vae;
  Progress progress = read_progress(file, name);
  load_weights(vae, file, name);
  for (const auto& [part, flat] : {std::pair{"first", vae.first}, std::pair{"second", vae.second}})
    for (const Parameter& p : vae.layout())
      put(vae.device(), view(flat, p), file.at(fmt::format("optimizer.{}.{}", part, p.name)), name);
  put(vae.device(), trainer.sums, file.at("epoch.sums"), name);
  trainer.set_step(progress.step);
  return progress;
}

std::string hash_weights(const Vae& vae) {
  Sha256 hash;
  for (const Parameter& p : vae.layout()) {
    const NamedTensor t = read_back(vae.device(), p.name, view(vae.parameters, p));
    hash.update(t.bytes.data(), t.bytes.size());
  }
  return hash.hex();
}

void CheckpointFolder::write_last(const TensorFile& file) const {
  if (has("last")) keep_last_as("previous");
  replace_last(file);
}

void CheckpointFolder::replace_last(const TensorFile& file) const {
  std::error_code error;
  fs::create_directories(folder_, error);
  require(!error, folder_, ": cannot be made: ", error.message());
  write_safetensors(path("last"), file);
}

void CheckpointFolder::keep_last_as(const std::string& name) const {
  const std::string link = path(name) + ".tmp";
  std::error_code error;
  fs::remove(link, error);
  fs::create_hard_link(path("last"), link, error);
  if (error) fs::copy_file(path("last"), link, error);  // a file system without links
  if (!error) fs::rename(link, path(name), error);
  require(!error, path(name), ": cannot be written: ", error.message());
  sync_folder(folder_);
}

bool CheckpointFolder::has(const std::string& name) const {
  std::error_code error;
  const bool there = fs::exists(path(name), error);
  require(!error, path(name), ": ", error.message());
  return there;
}

std::string CheckpointFolder::names() const {
  std::error_code absent;
  std::vector<std::string> found;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, absent))
    if (entry.path().extension() == ".safetensors") found.push_back(entry.path().stem());
  std::ranges::sort(found);
  return fmt::format("{}", fmt::join(found, ", "));
}

bool CheckpointFolder::holds(const std::string& name, std::uint32_t step) const {
  try {
    return has(name) && read_progress(read_safetensors(path(name)), path(name)).step == step;
  } catch (const Error&) {
    return false;
  }
}

TensorFile CheckpointFolder::read(const std::string& name) const {
  const std::string file = name.find('/') == std::string::npos && !name.ends_with(".safetensors") ? path(name) : name;
  try {
    return read_safetensors(file);
  } catch (const Error& e) {
    for (const char* other : {"previous", "best"}) {
      if (name == other) continue;
      std::uint32_t step = 0;
      try {
        step = read_progress(read_safetensors(path(other)), path(other)).step;
      } catch (const Error&) {
        continue;
      }
      fail(e.what(), "; the checkpoint ", other, ", of step ", step, ", is whole: --resume ", other,
           " goes on from there");
    }
    throw;
  }
}

}  // namespace elbo
