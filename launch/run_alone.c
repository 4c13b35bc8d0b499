#include "launch/ranks.h"

#include "base/log.h"

int run_alone(const struct command *command)
{
    enum status status = command->verb->alone(command);
    if (status != LORAD_OK) log_error("%s", status_message());
    return status_exit_code(status);
}
