/* SPDX-License-Identifier: MIT */
/*
 * imgfuse: disk images as plain files
 *
 * Decides which of the program's faces is wanted - a mount, an image command,
 * an unmount, help - and registers the drivers, which nothing else in fuse/
 * names. A command's name as the first argument wins over an image of that
 * name ("./info" is the image).
 */
#include "drivers/registry.h"

#include "fuse/cmd/cmd.h"
#include "fuse/help.h"
#include "fuse/log.h"
#include "fuse/server.h"
#include "fuse/spelling.h"
#include "fuse/umount.h"

#include <locale.h>
#include <string.h>

/*
 * The command that @word was to be, NULL: none. What is there as a file is an
 * image, and a word of three letters is close to too many others.
 */
static const char *meant_command(const char *word)
{
    unsigned most = strlen(word) > 3 ? 2 : 1;

    for (const char *c = word; *c; c++) {
        if (!g_ascii_islower(*c)) {
            return NULL;
        }
    }
    if (g_file_test(word, G_FILE_TEST_EXISTS)) {
        return NULL;
    }
    for (size_t i = 0; image_command_at(i); i++) {
        const char *name = image_command_at(i)->name;

        if (spelling_distance(word, name) <= most) {
            return name;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    g_autofree char *called = g_path_get_basename(argv[0]);
    const ImageCommand *command;
    const char *meant;

    setlocale(LC_ALL, "");
    g_set_prgname("imgfuse");

    if (g_str_has_prefix(called, "umount.")) {
        return umount_main(argc, argv);
    }
    if (argc > 1 && strcmp(argv[1], "umount") == 0) {
        return umount_main(argc - 1, argv + 1);
    }

    drivers_register_all();
    if (argc > 1 && strcmp(argv[1], "help") == 0) {
        return help_main(argc - 1, argv + 1);
    }
    command = argc > 1 ? image_command_find(argv[1]) : NULL;
    if (command) {
        return image_command_main(command, argc - 1, argv + 1);
    }
    meant = argc > 1 ? meant_command(argv[1]) : NULL;
    if (meant) {
        log_error("'%s' is neither a command nor a file; did you mean '%s'?",
                  argv[1], meant);
        return 2;
    }
    return server_main(argc, argv);
}
