/* Copyright (c) 2026, llmfleet.serving contributors
 * GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 */
#include "profile.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_PATH "/etc/nvml-mock/profile.ini"
#define EVERY_GPU (-1)
#define MAX_SETTINGS 512

typedef struct {
    int gpu; /* SYSTEM, EVERY_GPU or an index */
    char key[40];
    char value[128];
} setting_t;

static setting_t settings[MAX_SETTINGS];
static int setting_count;

static char *trim(char *text)
{
    while (isspace((unsigned char)*text))
        text++;
    char *end = text + strlen(text);
    while (end > text && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    return text;
}

/* "[system]", "[gpu]" or "[gpu 3]". */
static bool read_section(const char *line, int *gpu)
{
    unsigned int index;
    int end = 0;
    if (strcmp(line, "[system]") == 0)
        *gpu = SYSTEM;
    else if (strcmp(line, "[gpu]") == 0)
        *gpu = EVERY_GPU;
    else if (sscanf(line, "[gpu %2u]%n", &index, &end) == 1 && end > 0 && line[end] == '\0' && index < MAX_GPUS)
        *gpu = (int)index;
    else
        return false;
    return true;
}

/* "key = value"; the value may be empty, which means: not available. */
static bool read_setting(char *line, int gpu)
{
    char *equals = strchr(line, '=');
    if (equals == NULL || setting_count == MAX_SETTINGS)
        return false;
    *equals = '\0';
    setting_t *setting = &settings[setting_count];
    setting->gpu = gpu;
    int key = snprintf(setting->key, sizeof setting->key, "%s", trim(line));
    int value = snprintf(setting->value, sizeof setting->value, "%s", trim(equals + 1));
    if (key == 0 || key >= (int)sizeof setting->key || value >= (int)sizeof setting->value)
        return false;
    setting_count++;
    return true;
}

bool profile_load(void)
{
    const char *path = getenv("NVML_MOCK_PROFILE");
    if (path == NULL)
        path = DEFAULT_PATH;
    setting_count = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "nvml-mock: cannot read the profile %s: %s\n", path, strerror(errno));
        return false;
    }
    char buffer[256];
    int section = SYSTEM;
    int number = 0;
    bool good = true;
    while (good && fgets(buffer, sizeof buffer, file) != NULL) {
        number++;
        char *line = trim(buffer);
        if (*line == '\0' || *line == '#')
            continue;
        good = *line == '[' ? read_section(line, &section) : read_setting(line, section);
    }
    fclose(file);
    if (!good)
        fprintf(stderr, "nvml-mock: %s:%d is neither [system], [gpu], [gpu N] nor 'key = value'\n", path, number);
    return good;
}

static const setting_t *find(int gpu, const char *key)
{
    for (int i = setting_count - 1; i >= 0; i--) /* from the end: the last one counts */
        if (settings[i].gpu == gpu && strcmp(settings[i].key, key) == 0)
            return &settings[i];
    return NULL;
}

const char *profile_text(int gpu, const char *key)
{
    const setting_t *setting = find(gpu, key);
    if (setting == NULL && gpu != SYSTEM)
        setting = find(EVERY_GPU, key);
    return setting == NULL || setting->value[0] == '\0' ? NULL : setting->value;
}

bool profile_number(int gpu, const char *key, double *value)
{
    const char *text = profile_text(gpu, key);
    if (text == NULL)
        return false;
    if (strcmp(text, "on") == 0 || strcmp(text, "off") == 0) {
        *value = strcmp(text, "on") == 0;
        return true;
    }
    char *end;
    *value = strtod(text, &end);
    return *end == '\0';
}

bool profile_list_has(int gpu, const char *key, unsigned int wanted)
{
    const char *rest = profile_text(gpu, key);
    while (rest != NULL && *rest != '\0') {
        char *end;
        unsigned long first = strtoul(rest, &end, 10);
        unsigned long last = *end == '-' ? strtoul(end + 1, &end, 10) : first;
        if (first <= wanted && wanted <= last)
            return true;
        rest = *end == ',' ? end + 1 : NULL;
    }
    return false;
}
