/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Documented NVML functions about what a gate looks at first: memory errors, NVLink and NVSwitch, and the field values.
 */
#include "mock.h"

#include <stdio.h>
#include <string.h>
#include <sys/time.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Field ids that nvidia-smi 550 asks for and that are newer than the nvml.h of CUDA 12.4. */
#define FIELD_RESET_REQUIRED 226
#define FIELD_DRAIN_AND_RESET 227

/* ---- Memory errors ---------------------------------------------------------------------------------------------- */

static unsigned long long ecc_count(int gpu, const char *memory, nvmlMemoryErrorType_t type,
                                    nvmlEccCounterType_t counter)
{
    char key[40];
    double count = 0;
    snprintf(key, sizeof key, "ecc_%s_%s_%s", memory,
             type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? "corrected" : "uncorrected",
             counter == NVML_VOLATILE_ECC ? "volatile" : "aggregate");
    profile_number(gpu, key, &count);
    return (unsigned long long)count;
}

/* With ECC off there are no counters. */
static nvmlReturn_t ecc_gpu(nvmlDevice_t device, int *gpu)
{
    double mode = 0;
    nvmlReturn_t error = mock_gpu(device, gpu);
    if (error == NVML_SUCCESS && !(profile_number(*gpu, "ecc_mode", &mode) && mode != 0))
        error = NVML_ERROR_NOT_SUPPORTED;
    return error;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t type, nvmlEccCounterType_t counter,
                                         unsigned long long *count)
{
    int gpu;
    nvmlReturn_t error = ecc_gpu(device, &gpu);
    if (error == NVML_SUCCESS)
        *count = ecc_count(gpu, "sram", type, counter) + ecc_count(gpu, "dram", type, counter);
    return error;
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t type,
                                             nvmlEccCounterType_t counter, nvmlMemoryLocation_t location,
                                             unsigned long long *count)
{
    int gpu;
    nvmlReturn_t error = ecc_gpu(device, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (location == NVML_MEMORY_LOCATION_SRAM)
        *count = ecc_count(gpu, "sram", type, counter);
    else if (location == NVML_MEMORY_LOCATION_DRAM)
        *count = ecc_count(gpu, "dram", type, counter);
    else
        return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}

/* All uncorrected errors of the SRAM are double-bit errors of the L2 cache. */
nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *status)
{
    int gpu;
    double exceeded = 0;
    nvmlReturn_t error = ecc_gpu(device, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    unsigned int version = status->version;
    if (version != nvmlEccSramErrorStatus_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    profile_number(gpu, "ecc_sram_threshold_exceeded", &exceeded);
    unsigned long long aggregate = ecc_count(gpu, "sram", NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_AGGREGATE_ECC);
    *status = (nvmlEccSramErrorStatus_t){
        .version = version,
        .volatileCor = ecc_count(gpu, "sram", NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC),
        .volatileUncSecDed = ecc_count(gpu, "sram", NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC),
        .aggregateCor = ecc_count(gpu, "sram", NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_AGGREGATE_ECC),
        .aggregateUncSecDed = aggregate,
        .aggregateUncBucketL2 = aggregate,
        .bThresholdExceeded = exceeded != 0,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrected, unsigned int *uncorrected,
                                       unsigned int *pending, unsigned int *failed)
{
    nvmlReturn_t error = mock_uint(device, "remapped_rows_corrected", corrected);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "remapped_rows_uncorrected", uncorrected);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "row_remap_pending", pending);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "row_remap_failed", failed);
    return error;
}

/* The next remapping in a bank without spare rows fails. */
nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *banks)
{
    unsigned int without, total;
    nvmlReturn_t error = mock_uint(device, "row_remap_banks_without", &without);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "row_remap_banks", &total);
    if (error == NVML_SUCCESS)
        *banks = (nvmlRowRemapperHistogramValues_t){.max = total - without, .none = without};
    return error;
}

/* ---- NVLink, NVSwitch and the host's topology ------------------------------------------------------------------- */

static nvmlReturn_t nvlink_gpu(nvmlDevice_t device, unsigned int link, int *gpu)
{
    nvmlReturn_t error = mock_gpu(device, gpu);
    if (error == NVML_SUCCESS && link >= mock_nvlinks(*gpu))
        error = link < NVML_NVLINK_MAX_LINKS ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_INVALID_ARGUMENT;
    return error;
}

nvmlReturn_t nvmlDeviceGetNvLinkState(nvmlDevice_t device, unsigned int link, nvmlEnableState_t *active)
{
    int gpu;
    nvmlReturn_t error = nvlink_gpu(device, link, &gpu);
    if (error == NVML_SUCCESS)
        *active = mock_nvlink_active(gpu, link) ? NVML_FEATURE_ENABLED : NVML_FEATURE_DISABLED;
    return error;
}

nvmlReturn_t nvmlDeviceGetNvLinkErrorCounter(nvmlDevice_t device, unsigned int link, nvmlNvLinkErrorCounter_t counter,
                                             unsigned long long *count)
{
    static const char *const keys[] = {
        [NVML_NVLINK_ERROR_DL_REPLAY] = "nvlink_replay_errors",
        [NVML_NVLINK_ERROR_DL_RECOVERY] = "nvlink_recovery_errors",
        [NVML_NVLINK_ERROR_DL_CRC_FLIT] = "nvlink_crc_errors",
    };
    int gpu;
    unsigned int errors = 0;
    nvmlReturn_t error = nvlink_gpu(device, link, &gpu);
    if (error == NVML_SUCCESS && counter < LENGTH(keys) && keys[counter] != NULL)
        error = mock_uint(device, keys[counter], &errors);
    *count = errors;
    return error;
}

/* Every link ends in one of four NVSwitches. */
nvmlReturn_t nvmlDeviceGetNvLinkRemotePciInfo_v2(nvmlDevice_t device, unsigned int link, nvmlPciInfo_t *pci)
{
    int gpu;
    nvmlReturn_t error = nvlink_gpu(device, link, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    if (!mock_nvlink_active(gpu, link))
        return NVML_ERROR_NOT_SUPPORTED; /* topo -m gives up on other errors */
    memset(pci, 0, sizeof *pci);
    pci->bus = 0x05 + link % 4;
    pci->pciDeviceId = 0x22A310DE; /* NVSwitch of the third generation */
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT,
             NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    return NVML_SUCCESS;
}

/* Over PCIe: within a socket through its host bridges, or from one socket to the other. */
nvmlReturn_t nvmlDeviceGetTopologyCommonAncestor(nvmlDevice_t a, nvmlDevice_t b, nvmlGpuTopologyLevel_t *level)
{
    unsigned int node_a, node_b;
    nvmlReturn_t error = mock_uint(a, "numa_node", &node_a);
    if (error == NVML_SUCCESS)
        error = mock_uint(b, "numa_node", &node_b);
    if (error == NVML_SUCCESS)
        *level = node_a == node_b ? NVML_TOPOLOGY_NODE : NVML_TOPOLOGY_SYSTEM;
    return error;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfo(nvmlDevice_t device, nvmlGpuFabricInfo_t *fabric)
{
    unsigned int state, status;
    nvmlReturn_t error = mock_uint(device, "fabric_state", &state);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "fabric_status", &status);
    if (error != NVML_SUCCESS)
        return error;
    memset(fabric, 0, sizeof *fabric); /* clique and cluster are 0 within one host */
    fabric->state = (nvmlGpuFabricState_t)state;
    fabric->status = (nvmlReturn_t)status;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuFabricInfoV(nvmlDevice_t device, nvmlGpuFabricInfoV_t *fabric)
{
    nvmlGpuFabricInfo_t now;
    if (fabric->version != nvmlGpuFabricInfo_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlReturn_t error = nvmlDeviceGetGpuFabricInfo(device, &now);
    if (error != NVML_SUCCESS)
        return error;
    memcpy(fabric->clusterUuid, now.clusterUuid, sizeof fabric->clusterUuid);
    fabric->status = now.status;
    fabric->cliqueId = now.cliqueId;
    fabric->state = now.state;
    return mock_uint(device, "fabric_health", &fabric->healthMask);
}

nvmlReturn_t nvmlDeviceGetCpuAffinity(nvmlDevice_t device, unsigned int words, unsigned long *cpus)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    memset(cpus, 0, words * sizeof *cpus);
    for (unsigned int cpu = 0; cpu < words * 64; cpu++)
        if (profile_list_has(gpu, "cpu_affinity", cpu))
            cpus[cpu / 64] |= 1UL << cpu % 64;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryAffinity(nvmlDevice_t device, unsigned int words, unsigned long *nodes,
                                         nvmlAffinityScope_t scope)
{
    unsigned int node;
    (void)scope;
    nvmlReturn_t error = mock_uint(device, "numa_node", &node);
    if (error != NVML_SUCCESS)
        return error;
    memset(nodes, 0, words * sizeof *nodes);
    if (node < words * 64)
        nodes[node / 64] |= 1UL << node % 64;
    return NVML_SUCCESS;
}

/* ---- Field values: what has no function of its own -------------------------------------------------------------- */

static nvmlReturn_t uint_field(nvmlDevice_t device, const char *key, double scale, nvmlFieldValue_t *field)
{
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.ullVal = 0; /* callers may read the value wider than it is */
    return mock_scaled(device, key, scale, &field->value.uiVal);
}

static nvmlReturn_t int_field(nvmlDevice_t device, const char *key, nvmlFieldValue_t *field)
{
    double number = 0;
    nvmlReturn_t error = mock_number(device, key, &number);
    field->valueType = NVML_VALUE_TYPE_SIGNED_INT;
    field->value.siVal = (int)number;
    return error;
}

/* The scope of the power fields is the GPU or its memory, or the module with a CPU, which is not there. */
static nvmlReturn_t power_field(nvmlDevice_t device, const char *key, nvmlFieldValue_t *field)
{
    if (field->scopeId == NVML_POWER_SCOPE_MEMORY && field->fieldId == NVML_FI_DEV_POWER_AVERAGE)
        key = "memory_power_draw_w";
    else if (field->scopeId != NVML_POWER_SCOPE_GPU)
        return NVML_ERROR_NOT_SUPPORTED;
    return uint_field(device, key, 1000, field);
}

/* The scope of these fields is the link. */
static nvmlReturn_t nvlink_field(nvmlDevice_t device, nvmlFieldValue_t *field)
{
    int gpu;
    nvmlReturn_t error = nvlink_gpu(device, field->scopeId, &gpu);
    if (error != NVML_SUCCESS)
        return error;
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->value.ullVal = 0; /* also the speed and state of a link that is down */
    if (field->fieldId == NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY)
        return uint_field(device, "nvlink_replay_errors", 1, field);
    if (field->fieldId == NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY)
        return uint_field(device, "nvlink_recovery_errors", 1, field);
    if (field->fieldId == NVML_FI_DEV_NVLINK_ERROR_DL_CRC)
        return uint_field(device, "nvlink_crc_errors", 1, field);
    if (field->fieldId == NVML_FI_DEV_NVLINK_GET_STATE)
        field->value.uiVal = mock_nvlink_active(gpu, field->scopeId);
    else if (field->fieldId == NVML_FI_DEV_NVLINK_GET_SPEED && mock_nvlink_active(gpu, field->scopeId))
        return uint_field(device, "nvlink_speed_mbps", 1, field);
    return NVML_SUCCESS;
}

static nvmlReturn_t read_field(nvmlDevice_t device, nvmlFieldValue_t *field)
{
    switch (field->fieldId) {
    case NVML_FI_DEV_MEMORY_TEMP:
        return uint_field(device, "memory_temperature_c", 1, field);
    case NVML_FI_DEV_PCIE_REPLAY_COUNTER:
    case NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER:
        field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        return nvmlDeviceGetPcieReplayCounter(device, &field->value.uiVal);
    case NVML_FI_DEV_POWER_AVERAGE:
    case NVML_FI_DEV_POWER_INSTANT:
        return power_field(device, "power_draw_w", field);
    case NVML_FI_DEV_POWER_MIN_LIMIT:
        return power_field(device, "power_min_limit_w", field);
    case NVML_FI_DEV_POWER_MAX_LIMIT:
        return power_field(device, "power_max_limit_w", field);
    case NVML_FI_DEV_POWER_DEFAULT_LIMIT:
        return power_field(device, "power_default_limit_w", field);
    case NVML_FI_DEV_POWER_CURRENT_LIMIT:
    case NVML_FI_DEV_POWER_REQUESTED_LIMIT:
        return power_field(device, "power_limit_w", field);
    case NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT:
        return int_field(device, "margin_at_shutdown_c", field);
    case NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT:
        return int_field(device, "margin_at_slowdown_c", field);
    case NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT:
    case NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT:
        return int_field(device, "margin_at_throttling_c", field);
    case NVML_FI_DEV_NVLINK_LINK_COUNT:
        return uint_field(device, "nvlinks", 1, field);
    case NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON:
        return uint_field(device, "nvlink_speed_mbps", 1, field);
    case NVML_FI_DEV_NVLINK_GET_SPEED:
    case NVML_FI_DEV_NVLINK_GET_STATE:
    case NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY:
    case NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY:
    case NVML_FI_DEV_NVLINK_ERROR_DL_CRC:
        return nvlink_field(device, field);
    case FIELD_RESET_REQUIRED:
        return uint_field(device, "reset_required", 1, field);
    case FIELD_DRAIN_AND_RESET:
        return uint_field(device, "drain_and_reset", 1, field);
    default:
        return NVML_ERROR_NOT_SUPPORTED;
    }
}

/* Answers SUCCESS with an error per field: given another code, nvidia-smi prints uninitialised numbers. */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    for (int i = 0; i < count; i++) {
        fields[i].timestamp = now.tv_sec * 1000000LL + now.tv_usec;
        fields[i].latencyUsec = 0;
        fields[i].nvmlReturn = read_field(device, &fields[i]);
    }
    return NVML_SUCCESS;
}
