/* SPDX-License-Identifier: MIT */
/*
 * the queue of work for the main thread
 *
 * Always true: a command is in the queue or being run, and a coroutine that
 * waits for one is woken exactly once. A command lives on the stack of its
 * coroutine, or is freed after it was run when nobody waits.
 *
 * Locking: lock protects the queue, for the time of a push or a pop.
 */
#include "fuse/control.h"

typedef struct Command {
    ControlFunction *function;
    void *opaque;
    int result;
    Coroutine *waiter; /* NULL: nobody, and the command is ours to free */
} Command;

struct Control {
    AioContext *ctx;
    GMutex lock;
    GQueue commands; /* of Command * */
};

Control *control_new(AioContext *ctx)
{
    Control *control = g_new0(Control, 1);

    control->ctx = ctx;
    g_mutex_init(&control->lock);
    g_queue_init(&control->commands);
    return control;
}

/* Nothing may be waiting any more: the mount has ended before. */
void control_free(Control *control)
{
    if (control) {
        g_assert(g_queue_is_empty(&control->commands));
        g_mutex_clear(&control->lock);
        g_free(control);
    }
}

static void push(Control *control, Command *command)
{
    g_mutex_lock(&control->lock);
    g_queue_push_tail(&control->commands, command);
    g_mutex_unlock(&control->lock);
    aio_notify(control->ctx);
}

static Command *pop(Control *control)
{
    Command *command;

    g_mutex_lock(&control->lock);
    command = g_queue_pop_head(&control->commands);
    g_mutex_unlock(&control->lock);
    return command;
}

/* The coroutine sleeps meanwhile, so its thread serves other requests. */
int coroutine_fn control_co_run(Control *control, ControlFunction *function,
                                void *opaque)
{
    Command command = {
        .function = function,
        .opaque = opaque,
        .waiter = co_self(),
    };

    push(control, &command);
    co_yield();
    return command.result;
}

void control_post(Control *control, ControlFunction *function, void *opaque)
{
    Command *command = g_new0(Command, 1);

    command->function = function;
    command->opaque = opaque;
    push(control, command);
}

void control_run_pending(Control *control)
{
    Command *command;

    while ((command = pop(control)) != NULL) {
        command->result = command->function(command->opaque);
        if (command->waiter) {
            co_wake(command->waiter); /* the end of *command */
        } else {
            g_free(command);
        }
    }
}
