/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * nvidia-smi asks the library for a private table of functions. It is documented nowhere; what stands here was learned
 * by answering nvidia-smi 550.163.01 and looking at what it then printed, never by taking it apart. Only the slots that
 * it was seen to need are filled. It calls no slot that is NULL or beyond the table's size and prints N/A instead.
 */
#include "mock.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* One row of a process list. */
typedef struct {
    uint32_t pid;
    uint32_t unused;
    uint64_t bytes;
    uint32_t gpu_instance, compute_instance; /* MIG; NO_INSTANCE is shown as N/A */
    uint64_t unknown;
    char name[4096];
} smi_process_t;

_Static_assert(sizeof(smi_process_t) == 4128, "nvidia-smi steps through its process list by 4128 bytes");

#define NO_INSTANCE 0xffffffffu

/* Levels of `topo -m`; NVLink with k links is LEVEL_SYSTEM + k, shown as NVk. */
enum { LEVEL_NODE = 3, LEVEL_SYSTEM = 4 };

static nvmlReturn_t parse_bus_id(const char *text, unsigned *domain, unsigned *bus, unsigned *device,
                                 unsigned *function)
{
    pci_address_t pci;
    if (!mock_parse_pci(text, &pci))
        return NVML_ERROR_INVALID_ARGUMENT;
    *domain = pci.domain;
    *bus = pci.bus;
    *device = pci.device;
    *function = 0;
    return NVML_SUCCESS;
}

static nvmlReturn_t topology_level(const char *bus_id_a, const char *bus_id_b, unsigned *level)
{
    int a = mock_gpu_at(bus_id_a), b = mock_gpu_at(bus_id_b);
    if (a < 0 || b < 0)
        return NVML_ERROR_NOT_FOUND;
    unsigned links_a = mock_active_nvlinks(a), links_b = mock_active_nvlinks(b);
    unsigned links = links_a < links_b ? links_a : links_b;
    double node_a = 0, node_b = 0;
    profile_number(a, "numa_node", &node_a);
    profile_number(b, "numa_node", &node_b);
    if (links > 0)
        *level = LEVEL_SYSTEM + links;
    else
        *level = node_a == node_b ? LEVEL_NODE : LEVEL_SYSTEM;
    return NVML_SUCCESS;
}

/* dmon and pmon refuse a device for which this stays 0. */
static nvmlReturn_t monitoring_allowed(nvmlDevice_t device, unsigned *allowed)
{
    (void)device;
    *allowed = 1;
    return NVML_SUCCESS;
}

static nvmlReturn_t address_of_index(unsigned index, unsigned *domain, unsigned *bus, unsigned *device)
{
    pci_address_t pci;
    if (!mock_pci((int)index, &pci))
        return NVML_ERROR_INVALID_ARGUMENT;
    *domain = pci.domain;
    *bus = pci.bus;
    *device = pci.device;
    return NVML_SUCCESS;
}

/* Names the GPU in "Unable to determine the device handle for GPU...". */
static nvmlReturn_t bus_id_of_index(unsigned index, char *buffer, unsigned length)
{
    pci_address_t pci;
    if (!mock_pci((int)index, &pci))
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(buffer, length, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(&pci));
    return NVML_SUCCESS;
}

static nvmlReturn_t enforced_power_limit(nvmlDevice_t device, unsigned *milliwatts)
{
    return mock_milli(device, "power_limit_w", milliwatts);
}

/* *count is the capacity on entry and the length on return; it must be set whatever happens. */
static nvmlReturn_t compute_processes(nvmlDevice_t device, unsigned *count, smi_process_t *rows)
{
    unsigned capacity = *count;
    *count = 0;
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    process_t process;
    if (error != NVML_SUCCESS || !mock_process(gpu, &process))
        return error;
    *count = 1;
    if (capacity < 1)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memset(rows, 0, sizeof *rows);
    rows->pid = process.pid;
    rows->bytes = process.bytes;
    rows->gpu_instance = rows->compute_instance = NO_INSTANCE;
    snprintf(rows->name, sizeof rows->name, "%s", process.name);
    return NVML_SUCCESS;
}

static nvmlReturn_t no_processes(nvmlDevice_t device, unsigned *count, smi_process_t *rows)
{
    (void)rows;
    *count = 0;
    int gpu;
    return mock_gpu(device, &gpu);
}

static nvmlReturn_t host_link_generation(nvmlDevice_t device, unsigned *generation)
{
    return mock_uint(device, "pcie_generation", generation);
}

/* Degrees left until the GPU throttles. */
static nvmlReturn_t temperature_margin(nvmlDevice_t device, int *degrees)
{
    unsigned now, limit;
    nvmlReturn_t error = mock_uint(device, "temperature_c", &now);
    if (error == NVML_SUCCESS)
        error = mock_uint(device, "temperature_limit_c", &limit);
    if (error == NVML_SUCCESS)
        *degrees = (int)limit - (int)now;
    return error;
}

static nvmlReturn_t gpu_part_number(nvmlDevice_t device, char *buffer, unsigned length, unsigned text_length)
{
    (void)text_length;
    return mock_text(device, "gpu_part_number", buffer, length);
}

static nvmlReturn_t fru_part_number(nvmlDevice_t device, char *buffer, unsigned length, unsigned text_length)
{
    (void)text_length;
    return mock_text(device, "fru_part_number", buffer, length);
}

/* Addressing mode (0 none, 1 HMM, 2 ATS) and sparse operation mode (0 disabled): 0 on the recorded GPUs. Left empty,
 * these two would be shown as "Uninitialized". */
static nvmlReturn_t no_special_mode(nvmlDevice_t device, unsigned *mode)
{
    int gpu;
    *mode = 0;
    return mock_gpu(device, &gpu);
}

#define SLOTS 250

static const void *const table[SLOTS] = {
    [0] = (const void *)(SLOTS * sizeof(void *)), /* the table begins with its own size in bytes */
    [12] = parse_bus_id,
    [23] = topology_level,
    [72] = monitoring_allowed,
    [75] = address_of_index,
    [81] = bus_id_of_index,
    [108] = enforced_power_limit,
    [213] = compute_processes,
    [214] = no_processes, /* graphics */
    [215] = no_processes, /* MPS */
    [230] = host_link_generation,
    [231] = gpu_part_number,
    [237] = fru_part_number,
    [240] = temperature_margin,
    [242] = no_special_mode, /* addressing */
    [249] = no_special_mode, /* sparse operation */
};

/* The only table that nvidia-smi 550 asks for. */
static const unsigned char table_id[16] = {
    0xc4, 0xfe, 0x3e, 0x6c, 0xc9, 0x8f, 0x6c, 0x4e, 0xa3, 0x27, 0xee, 0x69, 0x6e, 0x12, 0xf7, 0xc4,
};

/* Not in nvml.h. */
nvmlReturn_t nvmlInternalGetExportTable(const void **export_table, const void *uuid);

nvmlReturn_t nvmlInternalGetExportTable(const void **export_table, const void *uuid)
{
    if (memcmp(uuid, table_id, sizeof table_id) != 0)
        return NVML_ERROR_NOT_FOUND;
    *export_table = table;
    return NVML_SUCCESS;
}
