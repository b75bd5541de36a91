/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Documented NVML functions about the host, its errors and its list of GPUs.
 */
#include "mock.h"

#include <stdio.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

const char *nvmlErrorString(nvmlReturn_t result)
{
    static const char *const texts[] = {
        [NVML_SUCCESS] = "Success",
        [NVML_ERROR_UNINITIALIZED] = "Uninitialized",
        [NVML_ERROR_INVALID_ARGUMENT] = "Invalid Argument",
        [NVML_ERROR_NOT_SUPPORTED] = "Not Supported",
        [NVML_ERROR_NO_PERMISSION] = "Insufficient Permissions",
        [NVML_ERROR_NOT_FOUND] = "Not Found",
        [NVML_ERROR_INSUFFICIENT_SIZE] = "Insufficient Size",
        [NVML_ERROR_INSUFFICIENT_POWER] = "Insufficient External Power",
        [NVML_ERROR_DRIVER_NOT_LOADED] = "Driver Not Loaded",
        [NVML_ERROR_TIMEOUT] = "Timeout",
        [NVML_ERROR_IRQ_ISSUE] = "Interrupt Request Issue",
        [NVML_ERROR_LIBRARY_NOT_FOUND] = "NVML Shared Library Not Found",
        [NVML_ERROR_FUNCTION_NOT_FOUND] = "Function Not Found",
        [NVML_ERROR_CORRUPTED_INFOROM] = "Corrupted infoROM",
        [NVML_ERROR_GPU_IS_LOST] = "GPU is lost",
        [NVML_ERROR_RESET_REQUIRED] = "GPU requires reset",
        [NVML_ERROR_OPERATING_SYSTEM] = "GPU access blocked by the operating system",
        [NVML_ERROR_LIB_RM_VERSION_MISMATCH] = "Driver/library version mismatch",
        [NVML_ERROR_NO_DATA] = "No data",
        [NVML_ERROR_ARGUMENT_VERSION_MISMATCH] = "Argument version mismatch",
    };
    return result < LENGTH(texts) && texts[result] != NULL ? texts[result] : "Unknown Error";
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    const char *driver = profile_text(SYSTEM, "driver_version");
    return mock_started() ? mock_copy(driver, version, length) : NVML_ERROR_UNINITIALIZED;
}

/* NVML's version is the interface's, then the driver's. */
nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    char text[NVML_SYSTEM_NVML_VERSION_BUFFER_SIZE] = NVML_API_VERSION_STR ".";
    const char *driver = profile_text(SYSTEM, "driver_version");
    if (driver != NULL)
        strncat(text, driver, sizeof text - strlen(text) - 1);
    return mock_started() ? mock_copy(text, version, length) : NVML_ERROR_UNINITIALIZED;
}

/* "12.4" is 12040. */
nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    int major, minor;
    const char *text = profile_text(SYSTEM, "cuda_version");
    if (text == NULL || sscanf(text, "%d.%d", &major, &minor) != 2)
        return NVML_ERROR_NOT_SUPPORTED;
    *version = 1000 * major + 10 * minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    return nvmlSystemGetCudaDriverVersion_v2(version);
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    process_t process;
    for (int gpu = 0; gpu < mock_gpu_count(); gpu++)
        if (mock_process(gpu, &process) && process.pid == pid)
            return mock_copy(process.name, name, length);
    return NVML_ERROR_NOT_FOUND;
}

/* nvidia-smi wants an event set to exist; no event ever comes. */
nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    static char event_set;
    *set = (nvmlEventSet_t)&event_set;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    (void)set;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    *count = (unsigned int)mock_gpu_count();
    return mock_started() ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    if (!mock_started())
        return NVML_ERROR_UNINITIALIZED;
    if (index >= (unsigned int)mock_gpu_count())
        return NVML_ERROR_INVALID_ARGUMENT;
    if (mock_lost((int)index, "handle"))
        return NVML_ERROR_GPU_IS_LOST;
    *device = mock_handle((int)index);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    for (int gpu = 0; gpu < mock_gpu_count(); gpu++) {
        const char *text = profile_text(gpu, "uuid");
        if (text != NULL && strcmp(text, uuid) == 0)
            return nvmlDeviceGetHandleByIndex_v2((unsigned int)gpu, device);
    }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device)
{
    int gpu = mock_gpu_at(bus_id);
    return gpu < 0 ? NVML_ERROR_NOT_FOUND : nvmlDeviceGetHandleByIndex_v2((unsigned int)gpu, device);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    int gpu;
    nvmlReturn_t error = mock_identify(device, &gpu);
    if (error == NVML_SUCCESS)
        *index = (unsigned int)gpu;
    return error;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    return nvmlDeviceGetIndex(device, minor);
}

static nvmlReturn_t pci_of(nvmlDevice_t device, int *gpu, pci_address_t *address)
{
    nvmlReturn_t error = mock_identify(device, gpu);
    if (error == NVML_SUCCESS && !mock_pci(*gpu, address))
        error = NVML_ERROR_NOT_SUPPORTED;
    return error;
}

static unsigned int pci_id(int gpu, const char *key)
{
    double id = 0;
    profile_number(gpu, key, &id);
    return (unsigned int)id;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    int gpu;
    pci_address_t address;
    nvmlReturn_t error = pci_of(device, &gpu, &address);
    if (error != NVML_SUCCESS)
        return error;
    pci->domain = address.domain;
    pci->bus = address.bus;
    pci->device = address.device;
    pci->pciDeviceId = pci_id(gpu, "pci_device_id");
    pci->pciSubSystemId = pci_id(gpu, "pci_subsystem_id");
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT,
             NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfoExt(nvmlDevice_t device, nvmlPciInfoExt_t *pci)
{
    int gpu;
    pci_address_t address;
    nvmlReturn_t error = pci_of(device, &gpu, &address);
    if (error != NVML_SUCCESS)
        return error;
    if (pci->version != nvmlPciInfoExt_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    pci->domain = address.domain;
    pci->bus = address.bus;
    pci->device = address.device;
    pci->pciDeviceId = pci_id(gpu, "pci_device_id");
    pci->pciSubSystemId = pci_id(gpu, "pci_subsystem_id");
    pci->baseClass = 3; /* display controller ... */
    pci->subClass = 2;  /* ... without a display */
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, NVML_DEVICE_PCI_BUS_ID_FMT_ARGS(pci));
    return NVML_SUCCESS;
}
