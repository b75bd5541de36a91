/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * What the profile says, in NVML's terms, and the library's life between nvmlInit and nvmlShutdown.
 */
#include "mock.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct nvmlDevice_st {
    char unused;
};

/* A handle is an address in this array, so that a pointer that is no handle is recognised. */
static struct nvmlDevice_st devices[MAX_GPUS];
static int users; /* nvmlInit calls without their nvmlShutdown */

bool mock_started(void)
{
    return users > 0;
}

int mock_gpu_count(void)
{
    double count;
    if (!profile_number(SYSTEM, "gpus", &count) || count < 0 || count > MAX_GPUS)
        return 0;
    return (int)count;
}

bool mock_lost(int gpu, const char *when)
{
    const char *value = profile_text(gpu, "lost");
    return value != NULL && strcmp(value, when) == 0;
}

nvmlDevice_t mock_handle(int gpu)
{
    return &devices[gpu];
}

nvmlReturn_t mock_identify(nvmlDevice_t device, int *gpu)
{
    if (users == 0)
        return NVML_ERROR_UNINITIALIZED;
    if (device < devices || device >= devices + mock_gpu_count())
        return NVML_ERROR_INVALID_ARGUMENT;
    *gpu = (int)(device - devices);
    return NVML_SUCCESS;
}

nvmlReturn_t mock_gpu(nvmlDevice_t device, int *gpu)
{
    nvmlReturn_t error = mock_identify(device, gpu);
    if (error == NVML_SUCCESS && mock_lost(*gpu, "queries"))
        error = NVML_ERROR_GPU_IS_LOST;
    return error;
}

/* "!999" in the place of a value is the error that the driver gives for it. */
static nvmlReturn_t setting_error(int gpu, const char *key)
{
    unsigned int error = NVML_SUCCESS;
    const char *text = profile_text(gpu, key);
    if (text != NULL)
        sscanf(text, "!%u", &error);
    return (nvmlReturn_t)error;
}

nvmlReturn_t mock_number(nvmlDevice_t device, const char *key, double *value)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error == NVML_SUCCESS)
        error = setting_error(gpu, key);
    if (error == NVML_SUCCESS && !profile_number(gpu, key, value))
        error = NVML_ERROR_NOT_SUPPORTED;
    return error;
}

nvmlReturn_t mock_scaled(nvmlDevice_t device, const char *key, double scale, unsigned int *value)
{
    double number;
    nvmlReturn_t error = mock_number(device, key, &number);
    if (error == NVML_SUCCESS)
        *value = (unsigned int)(number * scale + 0.5);
    return error;
}

nvmlReturn_t mock_uint(nvmlDevice_t device, const char *key, unsigned int *value)
{
    return mock_scaled(device, key, 1, value);
}

nvmlReturn_t mock_milli(nvmlDevice_t device, const char *key, unsigned int *value)
{
    return mock_scaled(device, key, 1000, value);
}

nvmlReturn_t mock_copy(const char *text, char *buffer, unsigned int length)
{
    if (text == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    if (strlen(text) >= length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(buffer, text, strlen(text) + 1);
    return NVML_SUCCESS;
}

nvmlReturn_t mock_text(nvmlDevice_t device, const char *key, char *buffer, unsigned int length)
{
    int gpu;
    nvmlReturn_t error = mock_gpu(device, &gpu);
    if (error == NVML_SUCCESS)
        error = setting_error(gpu, key);
    return error == NVML_SUCCESS ? mock_copy(profile_text(gpu, key), buffer, length) : error;
}

bool mock_parse_pci(const char *text, pci_address_t *address)
{
    unsigned int function;
    return sscanf(text, "%x:%x:%x.%x", &address->domain, &address->bus, &address->device, &function) == 4;
}

bool mock_pci(int gpu, pci_address_t *address)
{
    const char *text = gpu < 0 || gpu >= mock_gpu_count() ? NULL : profile_text(gpu, "pci_bus_id");
    return text != NULL && mock_parse_pci(text, address);
}

int mock_gpu_at(const char *bus_id)
{
    pci_address_t wanted, pci;
    if (!mock_parse_pci(bus_id, &wanted))
        return -1;
    for (int gpu = 0; mock_pci(gpu, &pci); gpu++)
        if (pci.domain == wanted.domain && pci.bus == wanted.bus && pci.device == wanted.device)
            return gpu;
    return -1;
}

bool mock_process(int gpu, process_t *process)
{
    const char *text = profile_text(gpu, "process");
    unsigned int mib;
    if (text == NULL || sscanf(text, "%u %u %95s", &process->pid, &mib, process->name) != 3)
        return false;
    process->bytes = mib * MIB;
    return true;
}

unsigned int mock_nvlinks(int gpu)
{
    double links = 0;
    profile_number(gpu, "nvlinks", &links);
    return (unsigned int)links;
}

bool mock_nvlink_active(int gpu, unsigned int link)
{
    return link < mock_nvlinks(gpu) && !profile_list_has(gpu, "nvlinks_down", link);
}

unsigned int mock_active_nvlinks(int gpu)
{
    unsigned int active = 0;
    for (unsigned int link = 0; link < mock_nvlinks(gpu); link++)
        active += mock_nvlink_active(gpu, link);
    return active;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    double seconds = 0, error = NVML_SUCCESS;
    if (!profile_load())
        return NVML_ERROR_DRIVER_NOT_LOADED;
    profile_number(SYSTEM, "init_delay_s", &seconds);
    unsigned int left = (unsigned int)seconds;
    while (left > 0)
        left = sleep(left); /* a driver that hangs is not woken by a signal that the program handles */
    profile_number(SYSTEM, "init_error", &error);
    if (error == NVML_SUCCESS)
        users++;
    return (nvmlReturn_t)error;
}

nvmlReturn_t nvmlInit_v2(void)
{
    return nvmlInitWithFlags(0);
}

nvmlReturn_t nvmlShutdown(void)
{
    if (users == 0)
        return NVML_ERROR_UNINITIALIZED;
    users--;
    return NVML_SUCCESS;
}
