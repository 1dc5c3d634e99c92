#include "host/commands/opened_run.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>

#include "host/base/files.h"
#include "host/commands/shared_options.h"
#include "host/lab/tuning.h"
#include "host/train/evaluate.h"
#include "host/train/trainer.h"

namespace elbo {

void add_query(Options& options, RunQuery& query) {
  options.text("RUN", query.folder, "the folder of a run");
  options.text("--checkpoint", query.checkpoint, "last, best, previous, epoch-N, or a file").shows_default();
  add_device(options, query.device, query.backend);
  add_data(options, query.data);
}

OpenedRun::OpenedRun(const RunQuery& query, const MomentsOf& moments_of, const std::string& option)
    : spec(parse_spec(read_text(spec_path(query.folder)), spec_path(query.folder))) {
  const std::vector<std::string> directories = data_directories(query.data);
  const Dataset sizes = measure_dataset(spec, directories);
  BackendOptions options = query.backend;
  options.precision = spec.train.precision;
  device = open_device(query.device, options);
  use_tuning_of_run(*device.backend, query.folder, "");
  const DeviceInfo info = device.backend->info();
  const MemoryNeeds needs(spec, sizes, info);
  std::vector<Needs> moments = moments_of(needs);
  moments.push_back(needs.checkpoint());
  for (const Needs& moment : moments)
    require_memory(needs.model() + moment, info, query.folder + ": what is asked for");
  data = load_dataset(spec, directories);
  vae = std::make_unique<Vae>(*device.backend, spec, data.train.image_shape());
  const CheckpointFolder checkpoints(query.folder);
  const TensorFile file = checkpoints.read(query.checkpoint, option);
  checkpoint = checkpoints.file(query.checkpoint);
  check_same_model(spec, stored_spec(file, checkpoint), checkpoint);
  load_weights(*vae, file, checkpoint);
  progress = read_progress(file, checkpoint);
  const std::string images = describe_images(data);
  on_its_images = images == progress.images;
  if (!on_its_images)
    std::fprintf(stderr, "note: %s was trained on other images (%s); these are %s\n", query.folder.c_str(),
                 progress.images.c_str(), images.c_str());
}

Figures OpenedRun::evaluate(const ImageSet& images) const {
  try {
    return Evaluator(*vae, spec, images).run();
  } catch (const Diverged& e) {
    fail(checkpoint, ": its weights have diverged: ", e.what());
  }
}

Behind OpenedRun::behind() const {
  std::int64_t images = 0;  // for training: describe_images() begins with their number
  std::from_chars(progress.images.data(), progress.images.data() + progress.images.size(), images);
  return {progress.step, std::max<std::int64_t>(1, images / spec.train.batch_size), progress.best_bound};
}

}  // namespace elbo
