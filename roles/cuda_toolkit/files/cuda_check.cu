/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Computes y = a x + y on every GPU of the host and compares each of the results. One line on standard output and status 0
 * if all are right; else a line on standard error for each GPU that is not, and status 1.
 *
 * All numbers are whole and below 2^24, so that a right result is exact in single precision, however it is rounded.
 */
#include <cstdio>

#define TRY(call)                   \
    do {                            \
        cudaError_t error_ = call;  \
        if (error_ != cudaSuccess)  \
            return error_;          \
    } while (0)

static const int COUNT = 1 << 20;
static const int THREADS = 256;
static const float FACTOR = 3;

static float x[COUNT], y[COUNT];

__global__ void saxpy(int count, float a, const float *from, float *to)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        to[i] = a * from[i] + to[i];
}

/* Runs the kernel on the current GPU, from x and y into y, up to the first error. The process ends soon: nothing is freed. */
static cudaError_t compute()
{
    float *device_x, *device_y;
    TRY(cudaMalloc(&device_x, sizeof x));
    TRY(cudaMalloc(&device_y, sizeof y));
    TRY(cudaMemcpy(device_x, x, sizeof x, cudaMemcpyHostToDevice));
    TRY(cudaMemcpy(device_y, y, sizeof y, cudaMemcpyHostToDevice));
    saxpy<<<(COUNT + THREADS - 1) / THREADS, THREADS>>>(COUNT, FACTOR, device_x, device_y);
    TRY(cudaGetLastError());
    return cudaMemcpy(y, device_y, sizeof y, cudaMemcpyDeviceToHost);
}

static bool right(int gpu)
{
    for (int i = 0; i < COUNT; i++) {
        x[i] = (float)(i + gpu);
        y[i] = (float)(COUNT - i);
    }
    cudaError_t error = cudaSetDevice(gpu);
    if (error == cudaSuccess)
        error = compute();
    if (error != cudaSuccess) {
        fprintf(stderr, "GPU %d: %s (%s)\n", gpu, cudaGetErrorString(error), cudaGetErrorName(error));
        return false;
    }
    for (int i = 0; i < COUNT; i++) {
        const float expected = FACTOR * (float)(i + gpu) + (float)(COUNT - i);
        if (y[i] != expected) {
            fprintf(stderr, "GPU %d: result %d is %.1f, expected %.1f\n", gpu, i, y[i], expected);
            return false;
        }
    }
    return true;
}

int main()
{
    int gpus = 0, wrong = 0, runtime = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&gpus);
    if (error != cudaSuccess) {
        fprintf(stderr, "CUDA does not start: %s (%s)\n", cudaGetErrorString(error), cudaGetErrorName(error));
        return 1;
    }
    for (int gpu = 0; gpu < gpus; gpu++)
        wrong += !right(gpu);
    if (wrong)
        return 1;
    cudaRuntimeGetVersion(&runtime);
    cudaDriverGetVersion(&driver);
    printf("%d of %d GPUs compute right with CUDA %d.%d; their driver supports %d.%d\n", gpus, gpus, runtime / 1000,
           runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    return 0;
}
