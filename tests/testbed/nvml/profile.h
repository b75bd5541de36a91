/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * The profile: one INI file that says what the simulated GPUs of a host are. profiles/h800.ini documents its settings.
 */
#ifndef NVML_MOCK_PROFILE_H
#define NVML_MOCK_PROFILE_H

#include <stdbool.h>

#define MAX_GPUS 16

/* The "gpu" of a setting in the section [system]. */
#define SYSTEM (-2)

/* Reads the file that NVML_MOCK_PROFILE names, else /etc/nvml-mock/profile.ini, and forgets what was read before.
 * False if it cannot be read or has a line that is no setting; standard error then says where and why. */
bool profile_load(void);

/* A setting of one GPU, from [gpu N] or else from [gpu]; of SYSTEM, from [system]. NULL if absent or empty. */
const char *profile_text(int gpu, const char *key);

/* The same as a number: decimal, 0x hexadecimal, "on" (1) or "off" (0). False if absent, empty or none of these. */
bool profile_number(int gpu, const char *key, double *value);

/* Whether a setting like "0-3,8" contains a number. An absent setting contains none. */
bool profile_list_has(int gpu, const char *key, unsigned int wanted);

#endif
