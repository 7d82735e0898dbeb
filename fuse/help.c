/* SPDX-License-Identifier: MIT */
/*
 * help that cannot be out of date
 *
 * Commands, drivers and their options are listed from the tables that the
 * program itself works with.
 *
 * Locking: none, a process of its own.
 */
#include "fuse/help.h"

#include "block/driver.h"

#include "fuse/cli_options.h"
#include "fuse/cmd/cmd.h"
#include "fuse/log.h"

#include <stdio.h>

static void show_driver(const BlockDriver *driver, void *opaque)
{
    printf("  %-16s %s\n", driver->format_name,
           driver->is_format ? "image format"
           : driver->is_filter ? "filter" : "protocol");
}

static int show_all(void)
{
    g_autofree char *options = cli_options_help();

    fputs(options, stdout);
    printf("\nCommands ('imgfuse COMMAND --help' says more):\n");
    for (size_t i = 0; image_command_at(i); i++) {
        const ImageCommand *command = image_command_at(i);

        printf("  %-16s %s\n", command->name, command->summary);
    }
    printf("  %-16s %s\n", "umount",
           "unmount and wait until the image is closed");
    printf("\nDrivers ('imgfuse help DRIVER' lists the options):\n");
    bdrv_foreach_driver(show_driver, NULL);
    return 0;
}

static const char *type_text(BlockOptionType type)
{
    static const char *const texts[] = {
        [BLOCK_OPTION_STRING] = "text",
        [BLOCK_OPTION_BOOL] = "on|off",
        [BLOCK_OPTION_NUMBER] = "number",
        [BLOCK_OPTION_SIZE] = "size",
        [BLOCK_OPTION_ENUM] = "",
        [BLOCK_OPTION_CHILD] = "node",
    };

    return texts[type];
}

static void show_option(const BlockOptionDesc *option)
{
    g_autofree char *values =
        option->type == BLOCK_OPTION_ENUM && option->values
        ? g_strjoinv("|", (char **)option->values)
        : g_strdup(type_text(option->type));

    printf("  %s=%s\n      %s", option->name, values,
           option->help ? option->help : "");
    if (option->default_value) {
        printf(" (default: %s)", option->default_value);
    }
    printf("\n");
}

int help_main(int argc, char **argv)
{
    const BlockDriver *driver;

    if (argc < 2) {
        return show_all();
    }
    driver = bdrv_find_format(argv[1]);
    if (!driver) {
        log_error("no driver is named '%s'; 'imgfuse help' lists them",
                  argv[1]);
        return 2;
    }
    printf("%s: %s\n", driver->format_name,
           driver->is_format ? "image format"
           : driver->is_filter ? "filter" : "protocol");
    if (!driver->options || !driver->options[0].name) {
        printf("no options of its own\n");
        return 0;
    }
    for (const BlockOptionDesc *option = driver->options; option->name;
         option++) {
        show_option(option);
    }
    return 0;
}
