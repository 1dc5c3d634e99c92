// The records that CUPTI writes, as far as they are read here, and where their fields lie. A newer CUPTI writes larger
// records than those named here; they are understood because they begin as these do. A toolkit for which that is not so
// does not compile, and neither does the simulated device's stand-in (tests/sim/cupti.h) if its records lie otherwise.
#pragma once
#include <cuda_runtime.h>
#include <cupti.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// The versions that a toolkit's headers do not have (yet): to a qualified name, what the global namespace declares by
// itself comes before what a using-directive brings.
namespace elbo_absent_records {
using CUpti_ActivityKernel10 = void;
using CUpti_ActivityKernel11 = void;
using CUpti_ActivityKernel12 = void;
using CUpti_ActivityKernel13 = void;
using CUpti_ActivityMemcpy6 = void;
using CUpti_ActivityMemcpy7 = void;
using CUpti_ActivityMemcpy8 = void;
using CUpti_ActivityMemset5 = void;
using CUpti_ActivityMemset6 = void;
using CUpti_ActivityExternalCorrelation2 = void;
}  // namespace elbo_absent_records
using namespace elbo_absent_records;

namespace elbo::cuda {

using KernelRecord = CUpti_ActivityKernel9;
using CopyRecord = CUpti_ActivityMemcpy5;
using FillRecord = CUpti_ActivityMemset4;
using MarkRecord = CUpti_ActivityExternalCorrelation;

// A field of the record type R in this place.
#define ELBO_FIELD(type, field, offset)                                                     \
  static_assert(offsetof(R, field) == (offset) && std::is_same_v<decltype(R::field), type>, \
                "CUPTI's records lie otherwise than cuda/activity.cpp reads them")

template <class R>
constexpr bool begins_as_a_kernel_record() {
  if constexpr (!std::is_void_v<R>) {
    static_assert(sizeof(R) >= sizeof(KernelRecord));
    ELBO_FIELD(CUpti_ActivityKind, kind, 0);
    ELBO_FIELD(std::uint16_t, registersPerThread, 6);
    ELBO_FIELD(std::uint64_t, start, 16);
    ELBO_FIELD(std::uint64_t, end, 24);
    ELBO_FIELD(std::uint32_t, streamId, 48);
    ELBO_FIELD(std::int32_t, gridX, 52);
    ELBO_FIELD(std::int32_t, gridY, 56);
    ELBO_FIELD(std::int32_t, gridZ, 60);
    ELBO_FIELD(std::int32_t, blockX, 64);
    ELBO_FIELD(std::int32_t, blockY, 68);
    ELBO_FIELD(std::int32_t, blockZ, 72);
    ELBO_FIELD(std::int32_t, staticSharedMemory, 76);
    ELBO_FIELD(std::int32_t, dynamicSharedMemory, 80);
    ELBO_FIELD(std::uint32_t, correlationId, 92);
    ELBO_FIELD(const char*, name, 104);
    ELBO_FIELD(std::uint64_t, graphNodeId, 144);
  }
  return true;
}

template <class R>
constexpr bool begins_as_a_copy_record() {
  if constexpr (!std::is_void_v<R>) {
    static_assert(sizeof(R) >= sizeof(CopyRecord));
    ELBO_FIELD(CUpti_ActivityKind, kind, 0);
    ELBO_FIELD(std::uint8_t, copyKind, 4);
    ELBO_FIELD(std::uint64_t, bytes, 8);
    ELBO_FIELD(std::uint64_t, start, 16);
    ELBO_FIELD(std::uint64_t, end, 24);
    ELBO_FIELD(std::uint32_t, streamId, 40);
    ELBO_FIELD(std::uint32_t, correlationId, 44);
    ELBO_FIELD(std::uint64_t, graphNodeId, 64);
  }
  return true;
}

template <class R>
constexpr bool begins_as_a_fill_record() {
  if constexpr (!std::is_void_v<R>) {
    static_assert(sizeof(R) >= sizeof(FillRecord));
    ELBO_FIELD(CUpti_ActivityKind, kind, 0);
    ELBO_FIELD(std::uint64_t, bytes, 8);
    ELBO_FIELD(std::uint64_t, start, 16);
    ELBO_FIELD(std::uint64_t, end, 24);
    ELBO_FIELD(std::uint32_t, streamId, 40);
    ELBO_FIELD(std::uint32_t, correlationId, 44);
    ELBO_FIELD(std::uint64_t, graphNodeId, 64);
  }
  return true;
}

template <class R>
constexpr bool begins_as_a_mark_record() {
  if constexpr (!std::is_void_v<R>) {
    static_assert(sizeof(R) >= sizeof(MarkRecord));
    ELBO_FIELD(CUpti_ActivityKind, kind, 0);
    ELBO_FIELD(CUpti_ExternalCorrelationKind, externalKind, 4);
    ELBO_FIELD(std::uint64_t, externalId, 8);
    ELBO_FIELD(std::uint32_t, correlationId, 16);
  }
  return true;
}
#undef ELBO_FIELD

static_assert(sizeof(KernelRecord) == 208 && begins_as_a_kernel_record<KernelRecord>() &&
              begins_as_a_kernel_record<::CUpti_ActivityKernel10>() &&
              begins_as_a_kernel_record<::CUpti_ActivityKernel11>() &&
              begins_as_a_kernel_record<::CUpti_ActivityKernel12>() &&
              begins_as_a_kernel_record<::CUpti_ActivityKernel13>());
static_assert(sizeof(CopyRecord) == 88 && begins_as_a_copy_record<CopyRecord>() &&
              begins_as_a_copy_record<::CUpti_ActivityMemcpy6>() &&
              begins_as_a_copy_record<::CUpti_ActivityMemcpy7>() && begins_as_a_copy_record<::CUpti_ActivityMemcpy8>());
static_assert(sizeof(FillRecord) == 88 && begins_as_a_fill_record<FillRecord>() &&
              begins_as_a_fill_record<::CUpti_ActivityMemset5>() && begins_as_a_fill_record<::CUpti_ActivityMemset6>());
static_assert(sizeof(MarkRecord) == 24 && begins_as_a_mark_record<MarkRecord>() &&
              begins_as_a_mark_record<::CUpti_ActivityExternalCorrelation2>());
// The numbers that tell records apart.
static_assert(CUPTI_ACTIVITY_KIND_MEMCPY == 1 && CUPTI_ACTIVITY_KIND_MEMSET == 2 && CUPTI_ACTIVITY_KIND_DRIVER == 4 &&
              CUPTI_ACTIVITY_KIND_RUNTIME == 5 && CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL == 10 &&
              CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION == 39 && CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0 == 3);

}  // namespace elbo::cuda
