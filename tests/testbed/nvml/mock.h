/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the parts of the mock share. nvml_*.c answer the documented interface: the functions that nvidia-smi 550,
 * nvidia-ml-py and nvitop call; every other function of nvml.h is a generated weak stub that answers
 * NVML_ERROR_NOT_SUPPORTED. smi_table.c answers the private interface of nvidia-smi.
 */
#ifndef NVML_MOCK_H
#define NVML_MOCK_H

/* Without this, nvml.h renames nvmlInit to nvmlInit_v2 and so on, and we could not define each by its own name. */
#define NVML_NO_UNVERSIONED_FUNC_DEFS
#include <nvml.h>

#include "profile.h"

#define MIB (1ULL << 20)

typedef struct {
    unsigned int domain, bus, device;
} pci_address_t;

typedef struct {
    unsigned int pid;
    unsigned long long bytes;
    char name[96];
} process_t;

/* Between nvmlInit and nvmlShutdown. */
bool mock_started(void);

int mock_gpu_count(void);

/* `lost = handle`: the driver gives no handle. `lost = queries`: it does, but then no query about the GPU succeeds. */
bool mock_lost(int gpu, const char *when);

/* A handle and its index. mock_identify knows a lost GPU, too, which still has its place on the bus; mock_gpu, with
 * which every query begins, does not. */
nvmlDevice_t mock_handle(int gpu);
nvmlReturn_t mock_identify(nvmlDevice_t device, int *gpu);
nvmlReturn_t mock_gpu(nvmlDevice_t device, int *gpu);

/* Getters of one setting: NVML_ERROR_NOT_SUPPORTED, shown as "N/A", where the profile does not have it. */
nvmlReturn_t mock_number(nvmlDevice_t device, const char *key, double *value);
nvmlReturn_t mock_scaled(nvmlDevice_t device, const char *key, double scale, unsigned int *value);
nvmlReturn_t mock_uint(nvmlDevice_t device, const char *key, unsigned int *value);
nvmlReturn_t mock_milli(nvmlDevice_t device, const char *key, unsigned int *value); /* watts as milliwatts */
nvmlReturn_t mock_text(nvmlDevice_t device, const char *key, char *buffer, unsigned int length);

/* A text, or NULL for what the profile does not have, into a caller's buffer. */
nvmlReturn_t mock_copy(const char *text, char *buffer, unsigned int length);

bool mock_pci(int gpu, pci_address_t *address);
bool mock_parse_pci(const char *text, pci_address_t *address);
int mock_gpu_at(const char *bus_id); /* -1 if no GPU has this PCI address */

/* The one compute process that a profile can put on a GPU. */
bool mock_process(int gpu, process_t *process);

unsigned int mock_nvlinks(int gpu);
bool mock_nvlink_active(int gpu, unsigned int link);
unsigned int mock_active_nvlinks(int gpu);

#endif
