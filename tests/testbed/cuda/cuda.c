/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * A libcuda.so.1 and libcublas.so in one, for a machine without a GPU: the functions of the CUDA driver API and of cuBLAS
 * that the active checks call. Memory is the host's, copies and products are really made, and time is simulated: each
 * piece of work moves a clock on by its size over its rate, so that rates are exact on any machine.
 *
 * The environment says what the host is like, as a list of words between spaces:
 *   MOCK_CUDA="gpus=8 cuMemAlloc_v2@3=2 corrupt@1 peer-rate=12 no-access hang@2"
 * gpus=N               how many GPUs there are (default 2)
 * version=N            the CUDA version of the driver (default 12040)
 * FUNCTION=CODE        the function fails with that CUresult or cublasStatus_t
 * device-rate=, host-rate=, peer-rate=GB/s and product-rate=TFLOP/s (defaults: those of an H100)
 * corrupt              a byte of what is copied within the GPU's memory changes
 * peer-corrupt         a byte of what is copied from the GPU to a peer changes
 * product-corrupt      the last number of a product is wrong; product-wrong: all are
 * no-access            no direct access from the GPU to its peers
 * hang, crash          taking a context never ends, or takes the process down
 * Each but the first two can end in @GPU, and then holds for that GPU alone.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_GPUS 16
#define EXPORT __attribute__((visibility("default")))

typedef int result_t;
typedef struct {
    int gpu;
    int taken;
} context_t;
typedef struct {
    double seconds;
} event_t;

static context_t contexts[MAX_GPUS];
static context_t *current;
static double clock_s;

/* The value of a word on this GPU: NULL if it is not there, "" if it has none. -1 is no GPU in particular. */
static const char *setting(const char *key, int gpu) {
    static char value[64];
    const char *list = getenv("MOCK_CUDA");
    char copy[1024], wanted[80], *word, *rest;
    snprintf(copy, sizeof copy, "%s", list ? list : "");
    snprintf(wanted, sizeof wanted, "%s@%d", key, gpu);
    for (word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        char *equals = strchr(word, '=');
        if (equals)
            *equals = 0;
        if (strcmp(word, key) == 0 || strcmp(word, wanted) == 0) {
            snprintf(value, sizeof value, "%s", equals ? equals + 1 : "");
            return value;
        }
    }
    return NULL;
}

static double number(const char *key, int gpu, double otherwise) {
    const char *value = setting(key, gpu);
    return value ? atof(value) : otherwise;
}

static int here(void) { return current ? current->gpu : -1; }

/* Ends the calling function with the error that the environment wants from it. */
#define MAY_FAIL                                            \
    do {                                                    \
        result_t wanted_ = (int)number(__func__, here(), 0); \
        if (wanted_)                                        \
            return wanted_;                                 \
    } while (0)

static void spend(double work, const char *rate, double otherwise, double unit) {
    clock_s += work / (number(rate, here(), otherwise) * unit);
}

static void damage(void *memory, size_t size, const char *fault) {
    if (setting(fault, here()))
        ((unsigned char *)memory)[size / 2] ^= 1;
}

/* --- Start, errors */

EXPORT result_t cuInit(unsigned int flags) {
    (void)flags;
    MAY_FAIL;
    for (int gpu = 0; gpu < MAX_GPUS; gpu++)
        contexts[gpu].gpu = gpu;
    return 0;
}

EXPORT result_t cuDriverGetVersion(int *version) {
    MAY_FAIL;
    *version = (int)number("version", -1, 12040);
    return 0;
}

EXPORT result_t cuDeviceGetCount(int *count) {
    MAY_FAIL;
    *count = (int)number("gpus", -1, 2);
    return 0;
}

static const struct {
    result_t code;
    const char *name, *text;
} errors[] = {
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

static result_t error_field(result_t code, const char **field, int text) {
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code) {
            *field = text ? errors[i].text : errors[i].name;
            return 0;
        }
    *field = NULL;
    return 1;
}

EXPORT result_t cuGetErrorName(result_t code, const char **name) { return error_field(code, name, 0); }
EXPORT result_t cuGetErrorString(result_t code, const char **text) { return error_field(code, text, 1); }

/* --- GPUs and memory */

/* These two say which GPU they are about before one is current. */
EXPORT result_t cuDeviceGet(int *device, int ordinal) {
    *device = ordinal;
    return ordinal < (int)number("gpus", -1, 2) ? (int)number(__func__, ordinal, 0) : 101;
}

EXPORT result_t cuDevicePrimaryCtxRetain(context_t **context, int device) {
    if (setting("hang", device))
        for (;;)
            pause();
    if (setting("crash", device))
        raise(SIGKILL);
    contexts[device].taken = 1;
    *context = &contexts[device];
    return (int)number(__func__, device, 0);
}

EXPORT result_t cuCtxSetCurrent(context_t *context) {
    current = context;
    MAY_FAIL;
    return context->taken ? 0 : 201;
}

EXPORT result_t cuDeviceGetPCIBusId(char *bus_id, int length, int device) {
    MAY_FAIL;
    snprintf(bus_id, (size_t)length, "0000:%02X:00.0", 0x1a + device);
    return 0;
}

EXPORT result_t cuMemAlloc_v2(uint64_t *address, size_t size) {
    MAY_FAIL;
    *address = (uint64_t)(uintptr_t)malloc(size);
    return *address ? 0 : 2;
}

EXPORT result_t cuMemFree_v2(uint64_t address) {
    MAY_FAIL;
    free((void *)(uintptr_t)address);
    return 0;
}

EXPORT result_t cuMemHostAlloc(void **address, size_t size, unsigned int flags) {
    (void)flags;
    MAY_FAIL;
    *address = malloc(size);
    return *address ? 0 : 2;
}

EXPORT result_t cuMemFreeHost(void *address) {
    MAY_FAIL;
    free(address);
    return 0;
}

/* --- Copies */

static void copy_host(void *target, const void *source, size_t size) {
    memcpy(target, source, size);
    spend((double)size, "host-rate", 55, 1e9);
}

static void copy_device(uint64_t target, uint64_t source, size_t size) {
    memcpy((void *)(uintptr_t)target, (void *)(uintptr_t)source, size);
    damage((void *)(uintptr_t)target, size, "corrupt");
    spend(2 * (double)size, "device-rate", 3000, 1e9);
}

EXPORT result_t cuMemcpyHtoD_v2(uint64_t target, const void *source, size_t size) {
    MAY_FAIL;
    copy_host((void *)(uintptr_t)target, source, size);
    return 0;
}

EXPORT result_t cuMemcpyHtoDAsync_v2(uint64_t target, const void *source, size_t size, void *stream) {
    (void)stream;
    MAY_FAIL;
    copy_host((void *)(uintptr_t)target, source, size);
    return 0;
}

EXPORT result_t cuMemcpyDtoH_v2(void *target, uint64_t source, size_t size) {
    MAY_FAIL;
    copy_host(target, (void *)(uintptr_t)source, size);
    return 0;
}

EXPORT result_t cuMemcpyDtoHAsync_v2(void *target, uint64_t source, size_t size, void *stream) {
    (void)stream;
    MAY_FAIL;
    copy_host(target, (void *)(uintptr_t)source, size);
    return 0;
}

EXPORT result_t cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size) {
    MAY_FAIL;
    copy_device(target, source, size);
    return 0;
}

EXPORT result_t cuMemcpyDtoDAsync_v2(uint64_t target, uint64_t source, size_t size, void *stream) {
    (void)stream;
    MAY_FAIL;
    copy_device(target, source, size);
    return 0;
}

EXPORT result_t cuDeviceCanAccessPeer(int *access, int device, int peer) {
    MAY_FAIL;
    *access = device != peer && !setting("no-access", device);
    return 0;
}

EXPORT result_t cuCtxEnablePeerAccess(context_t *peer, unsigned int flags) {
    (void)flags;
    MAY_FAIL;
    return peer->taken ? 0 : 201;
}

EXPORT result_t cuMemcpyPeerAsync(uint64_t target, context_t *target_context, uint64_t source, context_t *source_context,
                                  size_t size, void *stream) {
    (void)target_context, (void)source_context, (void)stream;
    MAY_FAIL;
    memcpy((void *)(uintptr_t)target, (void *)(uintptr_t)source, size);
    damage((void *)(uintptr_t)target, size, "peer-corrupt");
    spend((double)size, "peer-rate", 390, 1e9);
    return 0;
}

/* --- Time */

EXPORT result_t cuEventCreate(event_t **event, unsigned int flags) {
    (void)flags;
    MAY_FAIL;
    *event = calloc(1, sizeof **event);
    return *event ? 0 : 2;
}

EXPORT result_t cuEventRecord(event_t *event, void *stream) {
    (void)stream;
    MAY_FAIL;
    event->seconds = clock_s;
    return 0;
}

EXPORT result_t cuEventSynchronize(event_t *event) {
    (void)event;
    MAY_FAIL;
    return 0;
}

EXPORT result_t cuEventElapsedTime(float *milliseconds, event_t *start, event_t *stop) {
    MAY_FAIL;
    *milliseconds = (float)((stop->seconds - start->seconds) * 1000);
    return 0;
}

/* --- cuBLAS: squares of bf16 matrices, summed up in fp32 */

EXPORT result_t cublasCreate_v2(void **handle) {
    static int handles;
    MAY_FAIL;
    *handle = &handles;
    return 0;
}

static float bf16(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static void multiply(int order, const uint16_t *left, const uint16_t *right, float *product) {
    memset(product, 0, sizeof *product * (size_t)order * (size_t)order);
    for (int column = 0; column < order; column++)
        for (int k = 0; k < order; k++) {
            float factor = bf16(right[k + (size_t)column * order]);
            for (int row = 0; row < order; row++)
                product[row + (size_t)column * order] += bf16(left[row + (size_t)k * order]) * factor;
        }
}

EXPORT result_t cublasGemmEx(void *handle, int left_op, int right_op, int m, int n, int k, const float *alpha,
                             const uint16_t *left, int left_type, int left_rows, const uint16_t *right, int right_type,
                             int right_rows, const float *beta, float *product, int product_type, int product_rows,
                             int compute_type, int algorithm) {
    (void)handle, (void)algorithm;
    MAY_FAIL;
    if (left_op || right_op || m != n || n != k || left_rows != n || right_rows != n || product_rows != n || *alpha != 1 ||
        *beta != 0)
        return 7; /* CUBLAS_STATUS_INVALID_VALUE */
    if (left_type != 14 || right_type != 14 || product_type != 0 || compute_type != 68)
        return 15; /* CUBLAS_STATUS_NOT_SUPPORTED */
    multiply(n, left, right, product);
    if (setting("product-corrupt", here()))
        product[(size_t)n * n - 1] += 1;
    if (setting("product-wrong", here()))
        for (size_t i = 0; i < (size_t)n * n; i++)
            product[i] += 1;
    spend(2.0 * n * n * n, "product-rate", 780, 1e12);
    return 0;
}
