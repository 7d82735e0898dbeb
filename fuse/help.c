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
#include "block/graph/open.h"

#include "fuse/cli_options.h"
#include "fuse/cmd/cmd.h"
#include "fuse/log.h"
#include "fuse/umount.h"

#include <stdio.h>
#include <string.h>

/* The word tells where a driver can stand in a graph. */
static const char *kind_of(const BlockDriver *driver)
{
    return driver->is_format ? "image format"
           : driver->is_filter ? "filter" : "protocol";
}

static void show_driver(const BlockDriver *driver, void *opaque)
{
    printf("  %-16s %s\n", driver->format_name, kind_of(driver));
}

/* What there is, not what it means: each entry has a help of its own. */
static int show_all(void)
{
    g_autofree char *options = cli_options_help();

    fputs(options, stdout);
    printf("\nCommands ('imgfuse help COMMAND' says more):\n");
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

/* ---- options of drivers -------------------------------------------------- */

/* What may stand behind the equals sign. The caller frees. */
static char *values_text(const BlockOptionDesc *option)
{
    static const char *const texts[] = {
        [BLOCK_OPTION_STRING] = "text",
        [BLOCK_OPTION_BOOL] = "on|off",
        [BLOCK_OPTION_NUMBER] = "number",
        [BLOCK_OPTION_SIZE] = "size",
        [BLOCK_OPTION_ENUM] = "text",
        [BLOCK_OPTION_CHILD] = "node",
    };

    if (option->type == BLOCK_OPTION_ENUM && option->values) {
        return g_strjoinv("|", (char **)option->values);
    }
    return g_strdup(texts[option->type]);
}

static bool has_options(const BlockOptionDesc *options)
{
    return options && options[0].name;
}

static void show_options(const char *title, const BlockOptionDesc *options)
{
    if (!has_options(options)) {
        return;
    }
    printf("\n%s:\n", title);
    for (const BlockOptionDesc *option = options; option->name; option++) {
        g_autofree char *values = values_text(option);

        printf("  %s=%s\n      %s", option->name, values,
               option->help ? option->help : "");
        if (option->default_value) {
            printf(" (default: %s)", option->default_value);
        }
        printf("%s\n", option->is_mutable ? "; may change while in use" : "");
    }
}

/*
 * Creation options stand apart: they are for -o, the others for --image-opts.
 */
static int show_one(const BlockDriver *driver)
{
    printf("%s: %s\n", driver->format_name, kind_of(driver));
    show_options("Options of its own", driver->options);
    if (driver->create) {
        show_options("Options of 'imgfuse create -o'",
                     driver->create->options);
    }
    show_options("Options of every node", bdrv_common_options);
    return 0;
}

/* ---- the same for the man page ------------------------------------------- */

/* @text so that roff shows it as it is. The caller frees. */
static char *roff(const char *text)
{
    GString *escaped = g_string_new(NULL);

    for (; *text; text++) {
        if (*text == '\\') {
            g_string_append(escaped, "\\e");
        } else if (*text == '-') {
            g_string_append(escaped, "\\-");
        } else if (*text == '\'') {
            g_string_append(escaped, "\\(aq");
        } else {
            g_string_append_c(escaped, *text);
        }
    }
    return g_string_free(escaped, /* free_segment= */ FALSE);
}

/* An empty \& keeps a help that begins with a dot from being a request. */
static void man_options(const BlockOptionDesc *options)
{
    for (const BlockOptionDesc *option = options; option->name; option++) {
        g_autofree char *values = values_text(option);
        g_autofree char *name = roff(option->name);
        g_autofree char *value = roff(values);
        g_autofree char *help = roff(option->help ? option->help : "");
        g_autofree char *fallback =
            roff(option->default_value ? option->default_value : "");

        printf(".TP\n\\fB%s\\fR=\\fI%s\\fR\n\\&%s", name, value, help);
        if (option->default_value) {
            printf(" (default: %s)", fallback);
        }
        printf("%s.\n", option->is_mutable ? "; may change while in use"
                                           : "");
    }
}

/* Every driver has its heading, also without options: the list is whole. */
static void man_driver(const BlockDriver *driver, void *opaque)
{
    g_autofree char *name = roff(driver->format_name);

    printf(".SS \"%s \\- %s\"\n", name, kind_of(driver));
    if (has_options(driver->options)) {
        man_options(driver->options);
    } else {
        printf("No options of its own.\n");
    }
    if (driver->create && has_options(driver->create->options)) {
        printf(".PP\nOptions of\n.BR \"imgfuse create \\-o\" :\n");
        man_options(driver->create->options);
    }
}

/* Made by hand for terminals, so roff keeps the lines as they are. */
static void man_commands(void)
{
    g_autofree char *common = roff(image_command_common_options);
    g_autofree char *output = roff(image_command_output_option);

    printf(".SH OPTIONS OF COMMANDS\n");
    for (size_t i = 0; image_command_at(i); i++) {
        const ImageCommand *command = image_command_at(i);
        g_autofree char *usage = image_command_usage(command);
        g_autofree char *usage_text = roff(usage + strlen("usage: "));
        g_autofree char *options = roff(command->options);

        printf(".SS \"imgfuse %s \\- %s\"\n.nf\n%s\n%s%s.fi\n",
               command->name, command->summary, usage_text, options,
               command->prints_json ? output : "");
    }
    printf(".SS Options of every command\n.nf\n%s.fi\n", common);
}

/* The sections that the build puts into the man page. */
static int show_man(void)
{
    man_commands();
    printf(".SH DRIVERS\n"
           "Options of the nodes of an image, as\n"
           ".B \\-\\-image\\-opts\n"
           "and json: names take them.\n"
           ".SS \"Options of every node\"\n");
    man_options(bdrv_common_options);
    bdrv_foreach_driver(man_driver, NULL);
    return 0;
}

/* Commands first: they are asked about more often than drivers. */
int help_main(int argc, char **argv)
{
    const ImageCommand *command;
    const BlockDriver *driver;

    if (argc < 2) {
        return show_all();
    }
    if (strcmp(argv[1], "--man") == 0) {
        return show_man();
    }
    command = image_command_find(argv[1]);
    if (command) {
        image_command_show_help(command);
        return 0;
    }
    if (strcmp(argv[1], "umount") == 0) {
        umount_show_help();
        return 0;
    }
    driver = bdrv_find_format(argv[1]);
    if (!driver) {
        log_error("no driver or command is named '%s'; 'imgfuse help' lists "
                  "them", argv[1]);
        return 2;
    }
    return show_one(driver);
}
