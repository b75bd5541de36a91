/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Documented NVML functions about one GPU: what it is, what it does, its clocks and its processes. What a real Hopper
 * GPU was seen to answer whatever its state is a constant; what differs between hosts, GPUs or faults is a setting.
 */
#include "mock.h"

#include <stdio.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* ---- Getters of one setting ------------------------------------------------------------------------------------- */

#define TEXT(function, key)                                                                                           \
    nvmlReturn_t function(nvmlDevice_t device, char *text, unsigned int length)                                       \
    {                                                                                                                 \
        return mock_text(device, key, text, length);                                                                  \
    }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
TEXT(nvmlDeviceGetSerial, "serial")
TEXT(nvmlDeviceGetVbiosVersion, "vbios_version")
TEXT(nvmlDeviceGetBoardPartNumber, "board_part_number")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom_image")

#define NUMBER(function, type, key, scale)                                                                            \
    nvmlReturn_t function(nvmlDevice_t device, type *value)                                                           \
    {                                                                                                                 \
        unsigned int number;                                                                                          \
        nvmlReturn_t error = mock_scaled(device, key, scale, &number);                                                 \
        if (error == NVML_SUCCESS)                                                                                    \
            *value = (type)number;                                                                                    \
        return error;                                                                                                 \
    }

NUMBER(nvmlDeviceGetModuleId, unsigned int, "module_id", 1)
NUMBER(nvmlDeviceGetPersistenceMode, nvmlEnableState_t, "persistence_mode", 1)
NUMBER(nvmlDeviceGetComputeMode, nvmlComputeMode_t, "compute_mode", 1)
NUMBER(nvmlDeviceGetPerformanceState, nvmlPstates_t, "performance_state", 1)
NUMBER(nvmlDeviceGetPowerState, nvmlPstates_t, "performance_state", 1)
NUMBER(nvmlDeviceGetPowerUsage, unsigned int, "power_draw_w", 1000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned int, "power_limit_w", 1000)
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned int, "power_limit_w", 1000)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, "power_default_limit_w", 1000)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned int, "pcie_generation", 1)
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned int, "pcie_generation", 1)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned int, "pcie_generation", 1)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned int, "pcie_width", 1)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned int, "pcie_width_now", 1)
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned int, "pcie_replays", 1)
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "clock_event_reasons", 1)
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "clock_event_reasons", 1)

/* ---- The same answer from every GPU of the bed ------------------------------------------------------------------ */

#define CONSTANT(function, type, constant)                                                                            \
    nvmlReturn_t function(nvmlDevice_t device, type *value)                                                           \
    {                                                                                                                 \
        int gpu;                                                                                                      \
        nvmlReturn_t error = mock_gpu(device, &gpu);                                                                  \
        if (error == NVML_SUCCESS)                                                                                    \
            *value = constant;                                                                                        \
        return error;                                                                                                 \
    }

CONSTANT(nvmlDeviceGetBrand, nvmlBrandType_t, NVML_BRAND_NVIDIA)
CONSTANT(nvmlDeviceGetBoardId, unsigned int, 0x1800u + (unsigned int)gpu)
CONSTANT(nvmlDeviceGetMultiGpuBoard, unsigned int, 0)
CONSTANT(nvmlDeviceGetDisplayMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
CONSTANT(nvmlDeviceGetDisplayActive, nvmlEnableState_t, NVML_FEATURE_DISABLED)
CONSTANT(nvmlDeviceGetAccountingMode, nvmlEnableState_t, NVML_FEATURE_DISABLED)
CONSTANT(nvmlDeviceGetAccountingBufferSize, unsigned int, 4000)
CONSTANT(nvmlDeviceGetVirtualizationMode, nvmlGpuVirtualizationMode_t, NVML_GPU_VIRTUALIZATION_MODE_NONE)
CONSTANT(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, nvmlClocksEventReasonAll)
CONSTANT(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, nvmlClocksEventReasonAll)
CONSTANT(nvmlDeviceIsMigDeviceHandle, unsigned int, 0)
CONSTANT(nvmlDeviceGetMaxMigDeviceCount, unsigned int, 7)

nvmlReturn_t nvmlDeviceValidateInforom(nvmlDevice_t device)
{
    unsigned int valid;
    nvmlReturn_t error = mock_uint(device, "inforom_valid", &valid);
    return error == NVML_SUCCESS && valid == 0 ? NVML_ERROR_CORRUPTED_INFOROM : error;
}

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, unsigned int *kilobytes)
{
    int gpu;
    *kilobytes = 0;
    return counter < NVML_PCIE_UTIL_COUNT ? mock_gpu(device, &gpu) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
    int gpu;
    (void)pids;
    *count = 0;
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetEncoderStats(nvmlDevice_t device, unsigned int *sessions, unsigned int *fps,
                                       unsigned int *latency)
{
    int gpu;
    *sessions = *fps = *latency = 0;
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetFBCStats(nvmlDevice_t device, nvmlFBCStats_t *stats)
{
    int gpu;
    memset(stats, 0, sizeof *stats);
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetC2cModeInfoV(nvmlDevice_t device, nvmlC2cModeInfo_v1_t *info)
{
    int gpu;
    info->isC2cEnabled = 0;
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory)
{
    int gpu;
    memset(memory, 0, sizeof *memory);
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetGspFirmwareMode(nvmlDevice_t device, unsigned int *enabled, unsigned int *is_default)
{
    int gpu;
    *enabled = *is_default = 1;
    return mock_gpu(device, &gpu);
}

/* The firmware comes with the driver. The caller's buffer has 64 bytes; there is no argument that says so. */
nvmlReturn_t nvmlDeviceGetGspFirmwareVersion(nvmlDevice_t device, char *version)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    return error == NVML_SUCCESS ? mock_copy(profile_text(SYSTEM, "driver_version"), version, 64) : error;
}

/* ---- Groups of settings ----------------------------------------------------------------------------------------- */

static bool mig_enabled(int gpu)
{
    double mig = 0;
    return profile_number(gpu, "mig_mode", &mig) && mig != 0;
}

nvmlReturn_t nvmlDeviceGetInforomVersion(nvmlDevice_t device, nvmlInforomObject_t object, char *version,
                                         unsigned int length)
{
    static const char *const keys[] = {
        [NVML_INFOROM_OEM] = "inforom_oem",
        [NVML_INFOROM_ECC] = "inforom_ecc",
        [NVML_INFOROM_POWER] = "inforom_power",
    };
    return object < LENGTH(keys) ? mock_text(device, keys[object], version, length) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    const char *text = profile_text(gpu, "compute_capability");
    return text != NULL && sscanf(text, "%d.%d", major, minor) == 2 ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *architecture)
{
    int major, minor;
    nvmlReturn_t error = nvmlDeviceGetCudaComputeCapability(device, &major, &minor);
    if (error != NVML_SUCCESS)
        return error;
    if (major == 9)
        *architecture = NVML_DEVICE_ARCH_HOPPER;
    else if (major == 8)
        *architecture = minor == 9 ? NVML_DEVICE_ARCH_ADA : NVML_DEVICE_ARCH_AMPERE;
    else
        *architecture = NVML_DEVICE_ARCH_UNKNOWN;
    return NVML_SUCCESS;
}

static nvmlReturn_t get_memory(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    double total, used, reserved;
    nvmlReturn_t error = mock_number(device, "memory_total_mib", &total);
    if (error == NVML_SUCCESS)
        error = mock_number(device, "memory_used_mib", &used);
    if (error == NVML_SUCCESS)
        error = mock_number(device, "memory_reserved_mib", &reserved);
    if (error != NVML_SUCCESS)
        return error;
    memory->total = (unsigned long long)total * MIB;
    memory->used = (unsigned long long)used * MIB;
    memory->reserved = (unsigned long long)reserved * MIB;
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    return memory->version == nvmlMemory_v2 ? get_memory(device, memory) : NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

/* Version 1 counts what the driver reserves as used. */
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    nvmlMemory_v2_t now;
    nvmlReturn_t error = get_memory(device, &now);
    if (error == NVML_SUCCESS)
        *memory = (nvmlMemory_t){.total = now.total, .free = now.free, .used = now.used + now.reserved};
    return error;
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    double total;
    nvmlReturn_t error = mock_number(device, "bar1_total_mib", &total);
    if (error == NVML_SUCCESS) {
        memory->bar1Total = (unsigned long long)total * MIB;
        memory->bar1Used = MIB;
        memory->bar1Free = memory->bar1Total - memory->bar1Used;
    }
    return error;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *lowest,
                                                          unsigned int *highest)
{
    nvmlReturn_t error = mock_milli(device, "power_min_limit_w", lowest);
    return error == NVML_SUCCESS ? mock_milli(device, "power_max_limit_w", highest) : error;
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *degrees)
{
    return sensor == NVML_TEMPERATURE_GPU ? mock_uint(device, "temperature_c", degrees) : NVML_ERROR_INVALID_ARGUMENT;
}

/* A GPU with MIG on has no utilisation of its own. */
static nvmlReturn_t utilization(nvmlDevice_t device, const char *key, unsigned int *percent)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    return mig_enabled(gpu) ? NVML_ERROR_NOT_SUPPORTED : mock_uint(device, key, percent);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    nvmlReturn_t error = utilization(device, "utilization_gpu", &rates->gpu);
    return error == NVML_SUCCESS ? utilization(device, "utilization_memory", &rates->memory) : error;
}

/* Engines that a language model never uses. */
#define IDLE_ENGINE(function)                                                                                         \
    nvmlReturn_t function(nvmlDevice_t device, unsigned int *percent, unsigned int *sampling_us)                      \
    {                                                                                                                 \
        unsigned int ignored;                                                                                         \
        *percent = 0;                                                                                                 \
        *sampling_us = 100000;                                                                                        \
        return utilization(device, "utilization_gpu", &ignored);                                                      \
    }

IDLE_ENGINE(nvmlDeviceGetEncoderUtilization)
IDLE_ENGINE(nvmlDeviceGetDecoderUtilization)
IDLE_ENGINE(nvmlDeviceGetJpgUtilization)
IDLE_ENGINE(nvmlDeviceGetOfaUtilization)

/* What is pending comes with the next reset. */
static nvmlReturn_t get_modes(nvmlDevice_t device, const char *now, const char *next, unsigned int *current,
                              unsigned int *pending)
{
    nvmlReturn_t error = mock_uint(device, now, current);
    return error == NVML_SUCCESS ? mock_uint(device, next, pending) : error;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    unsigned int now = 0, next = 0;
    nvmlReturn_t error = get_modes(device, "ecc_mode", "ecc_mode_pending", &now, &next);
    *current = (nvmlEnableState_t)now;
    *pending = (nvmlEnableState_t)next;
    return error;
}

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    *current = *pending = 0;
    return get_modes(device, "mig_mode", "mig_mode_pending", current, pending);
}

/* MIG can be on, but nobody has cut the GPU into instances. */
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *instance)
{
    int gpu;
    (void)index, (void)instance;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    return error == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : error;
}

/* ---- Clocks ----------------------------------------------------------------------------------------------------- */

/* Copies a list in NVML's way: *count is the capacity on entry, the length on return. */
static nvmlReturn_t copy_list(const unsigned int *list, unsigned int length, unsigned int *count, unsigned int *copy)
{
    unsigned int capacity = *count;
    *count = length;
    if (capacity < length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(copy, list, length * sizeof *list);
    return NVML_SUCCESS;
}

static nvmlReturn_t clock_setting(nvmlDevice_t device, nvmlClockType_t type, const char *const keys[NVML_CLOCK_COUNT],
                                  unsigned int *mhz)
{
    return type < NVML_CLOCK_COUNT ? mock_uint(device, keys[type], mhz) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    static const char *const keys[NVML_CLOCK_COUNT] = {
        [NVML_CLOCK_GRAPHICS] = "clock_graphics_mhz",
        [NVML_CLOCK_SM] = "clock_graphics_mhz",
        [NVML_CLOCK_MEM] = "clock_memory_mhz",
        [NVML_CLOCK_VIDEO] = "clock_video_mhz",
    };
    return clock_setting(device, type, keys, mhz);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    static const char *const keys[NVML_CLOCK_COUNT] = {
        [NVML_CLOCK_GRAPHICS] = "max_clock_graphics_mhz",
        [NVML_CLOCK_SM] = "max_clock_graphics_mhz",
        [NVML_CLOCK_MEM] = "max_clock_memory_mhz",
        [NVML_CLOCK_VIDEO] = "max_clock_video_mhz",
    };
    return clock_setting(device, type, keys, mhz);
}

/* Application clocks exist for the graphics and memory domains and are the highest ones by default. */
nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    if (type != NVML_CLOCK_GRAPHICS && type != NVML_CLOCK_MEM)
        return NVML_ERROR_NOT_SUPPORTED;
    return nvmlDeviceGetMaxClockInfo(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    return nvmlDeviceGetApplicationsClock(device, type, mhz);
}

nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
{
    return type == NVML_CLOCK_GRAPHICS ? nvmlDeviceGetMaxClockInfo(device, type, mhz) : NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t type, nvmlClockId_t id, unsigned int *mhz)
{
    switch (id) {
    case NVML_CLOCK_ID_CURRENT:
        return nvmlDeviceGetClockInfo(device, type, mhz);
    case NVML_CLOCK_ID_APP_CLOCK_TARGET:
    case NVML_CLOCK_ID_APP_CLOCK_DEFAULT:
        return nvmlDeviceGetApplicationsClock(device, type, mhz);
    case NVML_CLOCK_ID_CUSTOMER_BOOST_MAX:
        return nvmlDeviceGetMaxCustomerBoostClock(device, type, mhz);
    default:
        return NVML_ERROR_INVALID_ARGUMENT;
    }
}

nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count, unsigned int *mhz)
{
    unsigned int clocks[2];
    nvmlReturn_t error = mock_uint(device, "max_clock_memory_mhz", &clocks[0]);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "low_clock_memory_mhz", &clocks[1]);
    return error == NVML_SUCCESS ? copy_list(clocks, LENGTH(clocks), count, mhz) : error;
}

/* From the highest down to 345 MHz in steps of 15, with either memory clock: so on the recorded H100 and H200. */
nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memory_mhz, unsigned int *count,
                                                  unsigned int *mhz)
{
    enum { LOWEST = 345, STEP = 15 };
    unsigned int clocks[256], length = 0, highest;
    (void)memory_mhz;
    nvmlReturn_t error = mock_uint(device, "max_clock_graphics_mhz", &highest);
    if (error != NVML_SUCCESS)
        return error;
    for (unsigned int clock = highest; clock >= LOWEST && length < LENGTH(clocks); clock -= STEP)
        clocks[length++] = clock;
    return copy_list(clocks, length, count, mhz);
}

/* ---- Processes -------------------------------------------------------------------------------------------------- */

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list)
{
    int gpu;
    process_t process;
    unsigned int capacity = *count;
    *count = 0;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error != NVML_SUCCESS || !mock_process(gpu, &process))
        return error;
    *count = 1;
    if (capacity < 1)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    *list = (nvmlProcessInfo_t){
        .pid = process.pid,
        .usedGpuMemory = process.bytes,
        .gpuInstanceId = 0xffffffff, /* not a MIG instance */
        .computeInstanceId = 0xffffffff,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *list)
{
    int gpu;
    (void)list;
    *count = 0;
    return mock_gpu(device, &gpu);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count,
                                                        nvmlProcessInfo_t *list)
{
    return nvmlDeviceGetGraphicsRunningProcesses_v3(device, count, list);
}

/* No sample was taken since the caller last asked. */
nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples,
                                             unsigned int *count, unsigned long long since)
{
    int gpu;
    (void)samples, (void)since;
    *count = 0;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    return error == NVML_SUCCESS ? NVML_ERROR_NOT_FOUND : error;
}
