// CUPTI's functions. The library is not linked: it is looked for when it is needed, since a machine that trains need
// not have it.
#pragma once
#include <cuda_runtime.h>
#include <cupti.h>

namespace elbo::cuda {

struct Cupti {
  decltype(&cuptiGetResultString) result_string;
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks;
  decltype(&cuptiActivityEnable) enable;
  decltype(&cuptiActivityDisable) disable;
  decltype(&cuptiActivityFlushAll) flush_all;
  decltype(&cuptiActivityGetNextRecord) next_record;
  decltype(&cuptiActivityGetNumDroppedRecords) dropped_records;
  decltype(&cuptiActivityPushExternalCorrelationId) push_id;
  decltype(&cuptiActivityPopExternalCorrelationId) pop_id;
  decltype(&cuptiGetStreamIdEx) stream_id;
};

// Throws Error where there is no libcupti, or one without these functions.
const Cupti& load_cupti();

}  // namespace elbo::cuda
