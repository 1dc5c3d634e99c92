// A stand-in for the part of CUPTI's activity API that cuda/ uses; cupti.cpp has the functions. Records hold the fields
// that are read there, where NVIDIA's have them (cuda/activity_records.h).
#pragma once
#include <cstddef>
#include <cstdint>

#include "tests/sim/runtime.h"

#define CUPTIAPI

using CUcontext = struct CUctx_st*;

enum CUptiResult {
  CUPTI_SUCCESS = 0,
  CUPTI_ERROR_MAX_LIMIT_REACHED = 12,
  CUPTI_ERROR_QUEUE_EMPTY = 18,
  CUPTI_ERROR_INSUFFICIENT_PRIVILEGES = 35,
};
enum CUpti_ActivityKind {
  CUPTI_ACTIVITY_KIND_MEMCPY = 1,
  CUPTI_ACTIVITY_KIND_MEMSET = 2,
  CUPTI_ACTIVITY_KIND_DRIVER = 4,
  CUPTI_ACTIVITY_KIND_RUNTIME = 5,
  CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL = 10,
  CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION = 39,
};
enum CUpti_ExternalCorrelationKind { CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0 = 3 };
enum CUpti_ActivityMemcpyKind {
  CUPTI_ACTIVITY_MEMCPY_KIND_HTOD = 1,
  CUPTI_ACTIVITY_MEMCPY_KIND_DTOH = 2,
  CUPTI_ACTIVITY_MEMCPY_KIND_DTOD = 8,
};

struct alignas(8) CUpti_Activity {
  CUpti_ActivityKind kind;
};
struct CUpti_ActivityKernel9 {
  CUpti_ActivityKind kind;
  std::uint8_t unread0[2];
  std::uint16_t registersPerThread;
  std::uint8_t unread1[8];
  std::uint64_t start, end;
  std::uint8_t unread2[16];
  std::uint32_t streamId;
  std::int32_t gridX, gridY, gridZ, blockX, blockY, blockZ, staticSharedMemory, dynamicSharedMemory;
  std::uint8_t unread3[8];
  std::uint32_t correlationId;
  std::uint8_t unread4[8];
  const char* name;
  std::uint8_t unread5[32];
  std::uint64_t graphNodeId;
  std::uint8_t unread6[56];
};
struct CUpti_ActivityMemcpy5 {
  CUpti_ActivityKind kind;
  std::uint8_t copyKind;
  std::uint64_t bytes, start, end;
  std::uint8_t unread0[8];
  std::uint32_t streamId, correlationId;
  std::uint8_t unread1[16];
  std::uint64_t graphNodeId;
  std::uint8_t unread2[16];
};
struct CUpti_ActivityMemset4 {
  CUpti_ActivityKind kind;
  std::uint64_t bytes, start, end;
  std::uint8_t unread0[8];
  std::uint32_t streamId, correlationId;
  std::uint8_t unread1[16];
  std::uint64_t graphNodeId;
  std::uint8_t unread2[16];
};
struct CUpti_ActivityExternalCorrelation {
  CUpti_ActivityKind kind;
  CUpti_ExternalCorrelationKind externalKind;
  std::uint64_t externalId;
  std::uint32_t correlationId;
};

using CUpti_BuffersCallbackRequestFunc = void (*)(std::uint8_t** buffer, std::size_t* size, std::size_t* most_records);
using CUpti_BuffersCallbackCompleteFunc = void (*)(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t size,
                                                   std::size_t valid);

CUptiResult cuptiGetResultString(CUptiResult, const char**);
CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc, CUpti_BuffersCallbackCompleteFunc);
CUptiResult cuptiActivityEnable(CUpti_ActivityKind);
CUptiResult cuptiActivityDisable(CUpti_ActivityKind);
CUptiResult cuptiActivityFlushAll(std::uint32_t flags);
CUptiResult cuptiActivityGetNextRecord(std::uint8_t* buffer, std::size_t valid, CUpti_Activity**);
CUptiResult cuptiActivityGetNumDroppedRecords(CUcontext, std::uint32_t stream, std::size_t* dropped);
CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind, std::uint64_t);
CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind, std::uint64_t*);
CUptiResult cuptiGetStreamIdEx(CUcontext, cudaStream_t, std::uint8_t per_thread, std::uint32_t* id);
